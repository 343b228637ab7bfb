"""Decoding one video and writing its clips, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taehv.config.params import Conversions, VideoLimits
from taehv.data.clip_plan import ClipPlan, VideoPlan
from taehv.data.clip_store import ClipRecord, ClipShardWriter, rows_per_shard
from taehv.data.decode import FewerFramesError, read_frames
from taehv.data.splits import SPLITS
from taehv.data.video_error import Reason, VideoError
from taehv.data.workers import advance


@dataclass(frozen=True)
class CutFailed:
    """Decoding showed that the video cannot be used."""

    reason: Reason
    detail: str


@dataclass(frozen=True)
class CutShort:
    """Decoding showed that the video is sound but has fewer frames than its packets suggest."""

    frames: int


CutResult = tuple[ClipRecord, ...] | CutFailed | CutShort


@dataclass(frozen=True)
class _Growing:
    """A clip whose frames are being written."""

    plan: ClipPlan
    shard: ClipShardWriter
    shard_name: str
    row: int

    def offer(self, number: int, picture: npt.NDArray[np.uint8]) -> None:
        """Take the clip's part of frame ``number`` (counted after the stride) if the clip shows that frame."""
        box, extent = self.plan.box, self.plan.extent
        if box.start <= number < self.plan.stop:
            crop = picture[box.top : box.top + extent.height, box.left : box.left + extent.width]
            self.shard.append(self.row, crop.transpose(2, 0, 1))


def cut_video(plan: VideoPlan, *, store: Path, limits: VideoLimits, conversions: Conversions) -> CutResult:
    """Write all clips of one video into its own shards; runs in a worker process, one unit of work per frame used.

    One picture is held at a time, whatever the video's length and number of clips.

    Args:
        plan: the clips to cut.
        store: the store's root.
        limits, conversions: as the video was probed with.

    Returns:
        The clips' records in the plan's order (their ``clip_id`` is 0 until all videos are known), or why not.
    """
    with ExitStack() as shards:
        clips = list(_open_shards(plan, store, shards))
        try:
            pictures = read_frames(
                plan.video.file,
                plan.video.info,
                limits,
                conversions,
                stride=plan.frame_stride,
                height=plan.scaled_height,
                width=plan.scaled_width,
                stop=plan.stop,
            )
            for number, picture in enumerate(pictures):
                for clip in clips:
                    clip.offer(number, picture)
                advance()
        except VideoError as error:
            return CutFailed(error.reason, error.detail)
        except FewerFramesError as error:
            return CutShort(error.frames)
        return tuple(_record(plan, clip) for clip in clips)


def planned_shards(plan: VideoPlan) -> Iterator[tuple[str, tuple[ClipPlan, ...]]]:
    """Each shard's path within the store, and the clips in it."""
    for split in SPLITS:
        clips = tuple(clip for clip in plan.clips if clip.split == split)
        if clips:
            rows = rows_per_shard(clips[0].bytes)
            for part, first in enumerate(range(0, len(clips), rows)):
                yield f"{split}/{plan.video.entry.sha256[:16]}-{part:03d}.npy", clips[first : first + rows]


def _open_shards(plan: VideoPlan, store: Path, shards: ExitStack) -> Iterator[_Growing]:
    for name, clips in planned_shards(plan):
        extent = clips[0].extent
        writer = ClipShardWriter(store / name, len(clips), extent.frames, extent.height, extent.width)
        shards.enter_context(writer)
        for row, clip in enumerate(clips):
            yield _Growing(clip, writer, name, row)


def _record(plan: VideoPlan, clip: _Growing) -> ClipRecord:
    box, extent = clip.plan.box, clip.plan.extent
    return ClipRecord(
        clip_id=0,
        source=plan.video.entry.path,
        video_sha256=plan.video.entry.sha256,
        split=clip.plan.split,
        shard=clip.shard_name,
        row=clip.row,
        first_frame=box.start * plan.frame_stride,
        frame_stride=plan.frame_stride,
        frames=extent.frames,
        top=box.top,
        left=box.left,
        height=extent.height,
        width=extent.width,
        scaled_height=plan.scaled_height,
        scaled_width=plan.scaled_width,
        sha256=clip.shard.sha256(clip.row),
    )
