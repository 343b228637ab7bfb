"""Side-by-side videos: the original on the left, the reconstruction on the right."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from taehv.data.video_files import write_video
from taehv.evaluation.report.examples import Example, Video

FRAMES_PER_SECOND = 8
"""A third of usual speed: clips last a few frames only."""
MIN_SHOWN_HEIGHT = 320
"""Pixels; smaller frames are enlarged by a whole factor, without smoothing."""
GAP = 8


def write_side_by_side(example: Example, codec: str, path: Path) -> None:
    """An H.264 mp4 that browsers play: original | what ``codec`` made of it."""
    frames = _side_by_side(example.original, example.decoded[codec].video)
    height, width = frames.shape[1:3]
    with write_video(path, Fraction(FRAMES_PER_SECOND), height, width, repeatable=True) as writer:
        writer.write(frames)


def _side_by_side(left: Video, right: Video) -> Video:
    factor = -(-MIN_SHOWN_HEIGHT // left.shape[1])
    left, right = (video.repeat(factor, axis=1).repeat(factor, axis=2) for video in (left, right))
    gap = np.full((*left.shape[:2], GAP, 3), 255, dtype=np.uint8)
    joined = np.concatenate([left, gap, right], axis=2)
    # Even sizes: browsers play H.264 with halved colour only.
    return np.pad(joined, ((0, 0), (0, joined.shape[1] % 2), (0, joined.shape[2] % 2), (0, 0)), mode="edge")
