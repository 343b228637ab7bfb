"""Small real clip stores and teachers for tests that need decoded clips, not videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from taehv.config.params import ClipCodecName
from taehv.data.clip_codec import Clip
from taehv.data.clip_index import ClipRecord
from taehv.data.clip_shards import ClipShardWriter, ShardFile, shard_name
from taehv.data.clip_store import ClipStore, complete_store
from taehv.data.splits import SplitName
from taehv.data.store_files import StoreFiles
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


def write_clips(
    root: Path, split: SplitName, clips: Mapping[str, Sequence[Clip]], codec: ClipCodecName = "raw"
) -> ClipStore:
    """A store with one split: the clips of each source, which are sorted, in a shard of their own."""
    shards: list[ShardFile] = []
    records: list[ClipRecord] = []
    for number, source in enumerate(clips):
        with ClipShardWriter(root / shard_name(split, number), codec, quality=20) as writer:
            begun = [(writer.begin(cast("tuple[int, int, int, int]", clip.shape)), clip) for clip in clips[source]]
            for frame in range(max(len(clip) for clip in clips[source])):
                for growing, clip in begun:
                    if frame < len(clip):
                        growing.append(clip[frame])
        shards.append(writer.facts())
        for row, (growing, clip) in enumerate(begun):
            record = ClipRecord(
                clip_id=len(records),
                source=source,
                video_sha256=str(number) * 64,
                split=split,
                shard=writer.name,
                offset=growing.offset,
                length=growing.length,
                codec=growing.codec,
                first_frame=100 * row,
                frame_stride=1,
                frames=len(clip),
                top=8,
                left=16,
                height=clip.shape[2],
                width=clip.shape[3],
                scaled_height=2 * clip.shape[2],
                scaled_width=2 * clip.shape[3],
                sha256=growing.sha256,
            )
            records.append(record)
    complete_store(root, shards, records)
    return ClipStore.open(root, split)


def write_test_store(
    root: Path, sources: tuple[str, ...] = ("a.mp4", "b/c.mp4"), clips_per_source: int = 2
) -> ClipStore:
    """A store whose test split has a few clips of each source."""
    return write_clips(
        root,
        "test",
        {
            source: [moving_pattern(10 * number + row) for row in range(clips_per_source)]
            for number, source in enumerate(sources)
        },
    )


def replace_index(root: Path, records: Sequence[ClipRecord]) -> None:
    """Another index of the same shards, and the list of files that goes with it."""
    complete_store(root, list(StoreFiles.read(root).shards.values()), records)


def fit_small_teacher(folder: Path) -> PcaTeacher:
    """A PCA teacher of a few moving patterns, saved in ``folder``."""
    clips = torch.stack([torch.from_numpy(moving_pattern(seed)) for seed in range(100, 104)])
    teacher = fit_pca([blocks_of(clips, VARIANT).flatten(0, 3)], VARIANT).teacher
    teacher.save(folder, {})
    return teacher
