"""From a set of readable videos to the exact clips to cut, before any frame is decoded."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taehv.config.params import ScaleData
from taehv.data.clip_grid import Box, Extent, cover_size, held_out_boxes, training_boxes
from taehv.data.inspect_video import Quarantined, Video
from taehv.data.splits import HELD_OUT, SplitName, SplitRule, split_by_time, split_of_video, split_rule
from taehv.data.video_error import VideoError

Parts = Mapping[SplitName, range]
"""The frames, counted after the frame stride, that a video gives to each split it is in."""


@dataclass(frozen=True)
class ClipPlan:
    """One clip to cut."""

    split: SplitName
    box: Box
    extent: Extent

    @property
    def stop(self) -> int:
        """One past the clip's last frame, counted after the frame stride."""
        return self.box.start + self.extent.frames

    @property
    def bytes(self) -> int:
        return 3 * self.extent.frames * self.extent.height * self.extent.width


@dataclass(frozen=True)
class VideoPlan:
    """All clips of one video, train first, then val, then test."""

    video: Video
    frame_stride: int
    scaled_height: int
    scaled_width: int
    clips: tuple[ClipPlan, ...]

    @property
    def stop(self) -> int:
        """One past the last frame that any clip shows, counted after the frame stride."""
        return max(clip.stop for clip in self.clips)


@dataclass(frozen=True)
class DatasetPlan:
    rule: SplitRule
    videos: tuple[VideoPlan, ...]
    returned: int
    """Videos that the split would hold out, and that are trained on: validation and test need no more."""
    quarantined: tuple[Quarantined, ...]
    unused: int
    """Videos that are not trained on, because ``max_clips`` others are."""

    @property
    def bytes(self) -> int:
        return sum(clip.bytes for video in self.videos for clip in video.clips)

    def clips(self, split: SplitName) -> int:
        return sum(clip.split == split for video in self.videos for clip in video.clips)


def plan_dataset(videos: Sequence[Video], data: ScaleData, samples: int) -> DatasetPlan:
    """Decide the split and every clip.

    Args:
        videos: the readable videos, in the manifest's order.
        data: sizes and split of the scale.
        samples: validation clips wanted, and as many test clips, over all sources.
    """
    fitting, quarantined = _usable(videos, data)
    # A video that turns out too short leaves more samples to each of the others, which need room for them.
    while True:
        rule = split_rule(len(fitting), data.split)
        parts = (
            _parts_by_video(fitting, data, samples) if rule == "by video" else _parts_by_time(fitting, data, samples)
        )
        parts, each, unused = _bounded(parts, data)
        plans, short = _plans(parts, data.model_copy(update={"clips_per_video": each}), samples)
        if not short:
            held_out = sum(any(split in HELD_OUT for split in splits) for _, splits in parts)
            returned = _meant_to_be_held_out(fitting, data) - held_out
            return DatasetPlan(rule, plans, returned, tuple(quarantined), unused)
        quarantined += short
        left_out = {problem.path for problem in short}
        fitting = [video for video in fitting if video.entry.path not in left_out]


def scaled_size(video: Video, data: ScaleData) -> tuple[int, int]:
    """Height and width of the frame that clips are cut from."""
    if data.resize == "native":
        return video.info.height, video.info.width
    return cover_size(video.info.height, video.info.width, data.canvas_height, data.canvas_width)


def _usable(videos: Sequence[Video], data: ScaleData) -> tuple[list[Video], list[Quarantined]]:
    """The videos that are unique, and large and long enough for any split."""
    usable, quarantined = [], []
    first_with: dict[str, str] = {}
    for video in videos:
        try:
            first = first_with.setdefault(video.entry.sha256, video.entry.path)
            if first != video.entry.path:
                raise VideoError("duplicate", f"the same content as {first}")
            if video.info.height < data.canvas_height or video.info.width < data.canvas_width:
                size = f"{video.info.width}x{video.info.height}"
                canvas = f"{data.canvas_width}x{data.canvas_height}"
                raise VideoError("too small", f"{size} pixels, the stored canvas is {canvas} (width x height)")
            _require("the video", _frames(video, data), data.canvas_frames, data)
        except VideoError as error:
            quarantined.append(Quarantined(video.entry.path, error.reason, error.detail))
        else:
            usable.append(video)
    return usable, quarantined


def _parts_by_video(videos: Sequence[Video], data: ScaleData, samples: int) -> list[tuple[Video, Parts]]:
    """Each video is in one split, whole. Of more held-out videos than samples, the first by content hash are held out.

    The others are trained on. Adding videos can so return one to training, but never takes one out of it: what is held
    out was never trained on before.
    """
    parts: list[tuple[Video, Parts]] = []
    taken: Counter[SplitName] = Counter()
    for video in sorted(videos, key=lambda video: video.entry.sha256):
        split = split_of_video(video.entry.sha256, data.split)
        if split != "train" and taken[split] == samples:
            split = "train"
        taken[split] += 1
        parts.append((video, {split: range(_frames(video, data))}))
    return parts


def _parts_by_time(videos: Sequence[Video], data: ScaleData, samples: int) -> list[tuple[Video, Parts]]:
    """Each video is in every split; beyond as many videos as samples, the last by content hash train, whole."""
    parts: list[tuple[Video, Parts]] = []
    for number, video in enumerate(sorted(videos, key=lambda video: video.entry.sha256)):
        frames = _frames(video, data)
        parts.append((video, split_by_time(frames, data.split) if number < samples else {"train": range(frames)}))
    return parts


def training_clips_each(videos: int, data: ScaleData) -> int:
    """Training clips of each of so many videos, at most, so that all of them together are at most ``max_clips``."""
    return min(data.clips_per_video, max(data.max_clips // max(videos, 1), 1))


def _bounded(parts: Sequence[tuple[Video, Parts]], data: ScaleData) -> tuple[list[tuple[Video, Parts]], int, int]:
    """The parts that are used, training clips of each video, and the number of videos that are not trained on.

    ``parts`` are in the order of content hashes: which videos are used does not depend on names or on the list's order.
    """
    training = [video.entry.path for video, splits in parts if "train" in splits]
    left_out = set(training[data.max_clips :])
    used: list[tuple[Video, Parts]] = []
    for video, splits in parts:
        kept = {split: part for split, part in splits.items() if split != "train" or video.entry.path not in left_out}
        used += [(video, kept)] if kept else []
    return used, training_clips_each(len(training), data), len(left_out)


def _meant_to_be_held_out(videos: Sequence[Video], data: ScaleData) -> int:
    """How many videos the split alone would hold out, in part or whole."""
    if split_rule(len(videos), data.split) == "by time":
        return len(videos)
    return sum(split_of_video(video.entry.sha256, data.split) != "train" for video in videos)


def _plans(
    parts: Sequence[tuple[Video, Parts]], data: ScaleData, samples: int
) -> tuple[tuple[VideoPlan, ...], list[Quarantined]]:
    sources = Counter(split for _, splits in parts for split in splits)
    plans, short = [], []
    for video, splits in sorted(parts, key=lambda pair: pair[0].entry.path):
        try:
            plans.append(_plan(video, data, splits, {split: samples // max(sources[split], 1) for split in HELD_OUT}))
        except VideoError as error:
            short.append(Quarantined(video.entry.path, error.reason, error.detail))
    return tuple(plans), short


def _plan(video: Video, data: ScaleData, parts: Parts, held_out: Mapping[SplitName, int]) -> VideoPlan:
    height, width = scaled_size(video, data)
    canvas = Extent(data.canvas_frames, data.canvas_height, data.canvas_width)
    clip = Extent(data.frames, data.height, data.width)
    clips = []
    for split, frames in parts.items():
        part = Extent(len(frames), height, width)
        _require(f"its {split} part", part.frames, data.canvas_frames if split == "train" else data.frames, data)
        if split == "train":
            whole = data.resize == "native"
            boxes, extent = training_boxes(part, canvas, at_most=data.clips_per_video, whole_frame=whole), canvas
        else:
            boxes, extent = held_out_boxes(part, clip, held_out[split]), clip
            if len(boxes) < held_out[split]:
                found = f"its {split} part holds {len(boxes)} different clips"
                raise VideoError("too short", f"{found}, {held_out[split]} are needed")
        clips += [ClipPlan(split, dataclasses.replace(box, start=box.start + frames.start), extent) for box in boxes]
    return VideoPlan(video, data.stored_stride, height, width, tuple(clips))


def _frames(video: Video, data: ScaleData) -> int:
    """Frames left after the frame stride."""
    return -(-video.info.frames // data.stored_stride)


def _require(what: str, frames: int, needed: int, data: ScaleData) -> None:
    if frames < needed:
        stride = f" (one in {data.stored_stride} is used)" if data.stored_stride > 1 else ""
        raise VideoError("too short", f"{what} has {frames} frames{stride}, {needed} are needed")
