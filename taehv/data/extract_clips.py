"""Decoding videos and writing their clips into shards, frame by frame."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taehv.config.params import Conversions, Store, VideoLimits
from taehv.data.clip_codec import Fidelity, codec_of_split
from taehv.data.clip_index import ClipRecord
from taehv.data.clip_plan import ClipPlan, VideoPlan
from taehv.data.clip_shards import ClipShardWriter, GrowingClip, ShardFile, shard_name
from taehv.data.decode import FewerFramesError, read_frames
from taehv.data.shard_plan import ShardPlan
from taehv.data.splits import SplitName
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


@dataclass(frozen=True)
class WrittenShards:
    """The shards of one number, complete."""

    files: tuple[ShardFile, ...]
    records: tuple[ClipRecord, ...]
    fidelity: Fidelity


@dataclass(frozen=True)
class UnusableVideos:
    """Why shards could not be completed, by the video's path; what was written of them is of no use."""

    by_path: dict[str, CutFailed | CutShort]


@dataclass(frozen=True)
class Cut:
    """A clip whose frames are being written."""

    plan: ClipPlan
    shard: str
    growing: GrowingClip

    def offer(self, number: int, frame_hwc: npt.NDArray[np.uint8]) -> None:
        """Take the clip's part of frame ``number`` (counted after the stride) if the clip shows that frame."""
        box, extent = self.plan.box, self.plan.extent
        if box.start <= number < self.plan.stop:
            crop = frame_hwc[box.top : box.top + extent.height, box.left : box.left + extent.width]
            self.growing.append(crop.transpose(2, 0, 1))


CutResult = list[Cut] | CutFailed | CutShort


def cut_shards(
    plan: ShardPlan, *, store: Path, stored_as: Store, limits: VideoLimits, conversions: Conversions
) -> WrittenShards | UnusableVideos:
    """Write the shards of one number; runs in a worker process, one unit of work per frame used.

    One frame is held at a time, whatever the videos' length and number of clips. A video that cannot be used does not
    keep the others from being tried: all of them are known after one round.

    Args:
        plan: the videos, and their clips.
        store: the store's root.
        stored_as: the codec of the clips.
        limits, conversions: as the videos were probed with.
    """
    records: list[ClipRecord] = []
    fidelity = Fidelity()
    unusable: dict[str, CutFailed | CutShort] = {}
    with ExitStack() as files:
        writers = {
            split: ClipShardWriter(
                store / shard_name(split, plan.number), codec_of_split(split, stored_as.codec), stored_as.quality
            )
            for split in plan.splits
        }
        for writer in writers.values():
            files.enter_context(writer)
        for video in plan.videos:
            result = cut_video(video, writers, limits, conversions)
            if isinstance(result, list):
                records += (_record(video, clip) for clip in result)
                fidelity += Fidelity.of(clip.growing.psnr_db for clip in result)
            else:
                unusable[video.video.entry.path] = result
    if unusable:
        return UnusableVideos(unusable)
    return WrittenShards(tuple(writer.facts() for writer in writers.values()), tuple(records), fidelity)


def cut_video(
    plan: VideoPlan, shards: Mapping[SplitName, ClipShardWriter], limits: VideoLimits, conversions: Conversions
) -> CutResult:
    """Write all clips of one video at the end of the shards of their splits.

    Returns:
        The complete clips in the plan's order, or why not.
    """
    extents = ((clip, clip.extent) for clip in plan.clips)
    clips = [
        Cut(clip, shards[clip.split].name, shards[clip.split].begin((size.frames, 3, size.height, size.width)))
        for clip, size in extents
    ]
    try:
        frames = read_frames(
            plan.video.file,
            plan.video.info,
            limits,
            conversions,
            stride=plan.frame_stride,
            height=plan.scaled_height,
            width=plan.scaled_width,
            stop=plan.stop,
        )
        for number, frame_hwc in enumerate(frames):
            for clip in clips:
                clip.offer(number, frame_hwc)
            advance()
    except VideoError as error:
        return CutFailed(error.reason, error.detail)
    except FewerFramesError as error:
        return CutShort(error.frames)
    return clips


def _record(plan: VideoPlan, clip: Cut) -> ClipRecord:
    """Its ``clip_id`` is 0 until all videos are known."""
    box, extent = clip.plan.box, clip.plan.extent
    return ClipRecord(
        clip_id=0,
        source=plan.video.entry.path,
        video_sha256=plan.video.entry.sha256,
        split=clip.plan.split,
        shard=clip.shard,
        offset=clip.growing.offset,
        length=clip.growing.length,
        codec=clip.growing.codec,
        first_frame=box.start * plan.frame_stride,
        frame_stride=plan.frame_stride,
        frames=extent.frames,
        top=box.top,
        left=box.left,
        height=extent.height,
        width=extent.width,
        scaled_height=plan.scaled_height,
        scaled_width=plan.scaled_width,
        sha256=clip.growing.sha256,
    )
