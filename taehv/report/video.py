"""Side-by-side videos: the original on the left, the reconstruction on the right."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from taehv import atomic
from taehv.report.examples import Example, Video

FRAMES_PER_SECOND = 8
"""A third of usual speed: clips last a few frames only."""
MIN_SHOWN_HEIGHT = 320
"""Pixels; smaller pictures are enlarged by a whole factor, without smoothing."""
GAP = 8


def write_side_by_side(example: Example, codec: str, path: Path) -> None:
    """An H.264 mp4 that browsers play: original | what ``codec`` made of it."""
    import av  # only reports need it here

    frames = _side_by_side(example.original, example.decoded[codec].video)
    container_options = {"movflags": "faststart", "fflags": "+bitexact"}
    with atomic.replacing(path) as partial, av.open(str(partial), "w", options=container_options) as container:
        # One thread, no look-ahead, no B-frames: with them x264 does not always give the same file for the same frames.
        settings = {"threads": "1", "bf": "0", "x264-params": "rc-lookahead=0:sync-lookahead=0:weightp=0"}
        options = {"crf": "16", "preset": "medium", **settings}
        stream = container.add_stream("libx264", rate=Fraction(FRAMES_PER_SECOND), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _side_by_side(left: Video, right: Video) -> Video:
    factor = -(-MIN_SHOWN_HEIGHT // left.shape[1])
    left, right = (video.repeat(factor, axis=1).repeat(factor, axis=2) for video in (left, right))
    gap = np.full((*left.shape[:2], GAP, 3), 255, dtype=np.uint8)
    joined = np.concatenate([left, gap, right], axis=2)
    # H.264 with 4:2:0 colour wants even sizes.
    return np.pad(joined, ((0, 0), (0, joined.shape[1] % 2), (0, joined.shape[2] % 2), (0, 0)), mode="edge")
