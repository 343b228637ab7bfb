"""Which videos share a shard: successive ones, by path, whose clips fill it. A shard is one task of prepare_data."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from taehv.data.clip_plan import DatasetPlan, VideoPlan
from taehv.data.clip_shards import shard_name
from taehv.data.splits import SPLITS, SplitName


@dataclass(frozen=True)
class ShardPlan:
    """The videos of one number: their clips are in one shard for each split."""

    number: int
    videos: tuple[VideoPlan, ...]

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """Those that it has clips of."""
        found = {clip.split for video in self.videos for clip in video.clips}
        return tuple(split for split in SPLITS if split in found)

    @property
    def names(self) -> tuple[str, ...]:
        """Of its shards, within the store."""
        return tuple(shard_name(split, self.number) for split in self.splits)

    @property
    def bytes(self) -> int:
        """Of the pixels."""
        return sum(clip.bytes for video in self.videos for clip in video.clips)

    @property
    def frames(self) -> int:
        """To decode."""
        return sum(video.stop for video in self.videos)

    def __str__(self) -> str:
        paths = [video.video.entry.path for video in self.videos]
        return paths[0] if len(paths) == 1 else f"{paths[0]} ... {paths[-1]} ({len(paths)} videos)"


def shard_starts(plan: DatasetPlan, shard_bytes: int) -> tuple[str, ...]:
    """The path of the first video of each number: a new one begins where the next video would not fit.

    A video's clips are never parted: one with more than ``shard_bytes`` has a larger shard, for itself.
    """
    starts: list[str] = []
    room = -1
    for video in plan.videos:
        size = sum(clip.bytes for clip in video.clips)
        if size > room:
            starts.append(video.video.entry.path)
            room = shard_bytes
        room -= size
    return tuple(starts)


def shard_plans(plan: DatasetPlan, starts: Sequence[str]) -> list[ShardPlan]:
    """The videos by number. Where ``starts`` come from an earlier plan a lost video changes no shard but its own."""
    by_number: dict[int, list[VideoPlan]] = {}
    for video in plan.videos:
        number = max(bisect_right(starts, video.video.entry.path) - 1, 0)
        by_number.setdefault(number, []).append(video)
    return [ShardPlan(number, tuple(videos)) for number, videos in by_number.items()]
