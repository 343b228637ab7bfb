"""Small real clip stores and teachers for tests that need decoded clips, not videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from taehv.data.clip_store import ClipRecord, ClipShardWriter, ClipStore, write_index
from taehv.model.variants import VARIANTS
from taehv.teachers.pca import PcaTeacher, blocks_of, fit_pca

VARIANT = VARIANTS["hunyuan_video"]


def moving_pattern(seed: int, frames: int = 12, size: int = 32) -> npt.NDArray[np.uint8]:
    """(T, 3, size, size): a smooth random pattern that moves by one pixel per frame."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((1, 3, size // 4 + 4, size // 4 + 4)))
    pattern = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1)[0]
    moved = torch.stack([pattern[:, :size, frame : frame + size] for frame in range(frames)])
    clip: npt.NDArray[np.uint8] = (moved * 255).round().byte().numpy()
    return clip


def write_test_store(
    root: Path, sources: tuple[str, ...] = ("a.mp4", "b/c.mp4"), clips_per_source: int = 2
) -> ClipStore:
    """A store whose test split has a few clips of each source."""
    records: list[ClipRecord] = []
    for number, source in enumerate(sources):
        shard = f"test/{number}.npy"
        clips = [moving_pattern(10 * number + row) for row in range(clips_per_source)]
        frames, _, height, width = clips[0].shape
        with ClipShardWriter(root / shard, clips_per_source, frames, height, width) as writer:
            for row, clip in enumerate(clips):
                for frame in clip:
                    writer.append(row, frame)
        for row in range(clips_per_source):
            record = ClipRecord(
                clip_id=len(records),
                source=source,
                video_sha256=str(number) * 64,
                split="test",
                shard=shard,
                row=row,
                first_frame=100 * row,
                frame_stride=1,
                frames=frames,
                top=8,
                left=16,
                height=height,
                width=width,
                scaled_height=64,
                scaled_width=64,
                sha256=writer.sha256(row),
            )
            records.append(record)
    write_index(root, records)
    return ClipStore.open(root, "test")


def fit_small_teacher(folder: Path) -> PcaTeacher:
    """A PCA teacher of a few moving patterns, saved in ``folder``."""
    clips = torch.stack([torch.from_numpy(moving_pattern(seed)) for seed in range(100, 104)])
    teacher = fit_pca([blocks_of(clips, VARIANT).flatten(0, 3)], VARIANT).teacher
    teacher.save(folder, {})
    return teacher
