"""Which frames are for training, for validation, for testing: whole videos, or parts of each video in time."""

from __future__ import annotations

from typing import Literal, get_args

from taehv.config.params import Split

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
HELD_OUT: tuple[SplitName, ...] = ("val", "test")
SplitRule = Literal["by video", "by time"]


def split_rule(usable_videos: int, split: Split) -> SplitRule:
    """Whole videos where there are enough of them, parts in time otherwise."""
    return "by video" if usable_videos >= split.by_video_from else "by time"


def split_of_video(sha256: str, split: Split) -> SplitName:
    """The split of a whole video, from its content alone: adding videos never moves another one."""
    position = int(sha256[:8], 16) / 2**32
    if position < split.train:
        return "train"
    return "val" if position < split.train + split.val else "test"


def split_by_time(frames: int, split: Split) -> dict[SplitName, range]:
    """A video's frames as [train | guard | val | guard | test]; the guards' frames are in no part.

    A part can be too short to use or empty; that is for the caller to judge.
    """
    shared_out = max(frames - 2 * split.guard_frames, 0)
    val, test = round(shared_out * split.val), round(shared_out * split.test)
    train = max(shared_out - val - test, 0)
    val_start = train + split.guard_frames
    test_start = val_start + val + split.guard_frames
    return {
        "train": range(train),
        "val": range(val_start, val_start + val),
        "test": range(test_start, test_start + test),
    }
