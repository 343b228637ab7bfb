"""Which videos share a shard: successive ones, by path, whose clips fill it. It is one task of prepare_data."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
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


Starts = Mapping[SplitName, Sequence[str]]
"""The path of the first video of each number: of videos that are trained on, and of those that are held out whole."""


def shard_starts(plan: DatasetPlan, shard_bytes: int) -> Starts:
    """Where shards begin: a new number is given where the next video would not fit.

    A video's clips are never parted: one with more than ``shard_bytes`` has a larger shard, for itself.
    """
    starts: dict[SplitName, list[str]] = {}
    room: dict[SplitName, int] = {}
    for video in plan.videos:
        kind, size = _kind(video), sum(clip.bytes for clip in video.clips)
        if size > room.get(kind, -1):
            starts.setdefault(kind, []).append(video.video.entry.path)
            room[kind] = shard_bytes
        room[kind] -= size
    return starts


def shard_plans(plan: DatasetPlan, starts: Starts) -> list[ShardPlan]:
    """The videos by number. Where ``starts`` come from an earlier plan a lost video changes no shard but its own."""
    together: dict[tuple[SplitName, int], list[VideoPlan]] = {}
    for video in plan.videos:
        kind = _kind(video)
        number = max(bisect_right(starts.get(kind, ()), video.video.entry.path) - 1, 0)
        together.setdefault((kind, number), []).append(video)
    return [ShardPlan(number, tuple(videos)) for (_, number), videos in together.items()]


def _kind(video: VideoPlan) -> SplitName:
    """A video with training clips is one that is trained on. The few that have none are counted apart, so that they
    share shards, however far apart their paths are. By the split's rules no two shards get one name so: either all
    videos are trained on, or each is in one split."""
    return next(split for split in SPLITS if any(clip.split == split for clip in video.clips))
