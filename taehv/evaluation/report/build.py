"""Everything below reports/ that is made from finished measurements: figures, videos, the page."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from taehv.config.params import Gate
from taehv.data.video_files import write_video
from taehv.evaluation.parity import Parity, RunRecord
from taehv.evaluation.report.examples import Example, Video
from taehv.evaluation.report.figures import write_curves, write_strip
from taehv.evaluation.report.html import ShownClip, render
from taehv.runtime import atomic_files

FRAMES_PER_SECOND = 8
"""A third of usual speed: clips last a few frames only."""
MIN_SHOWN_HEIGHT = 320
"""Pixels; smaller frames are enlarged by a whole factor, without smoothing."""
GAP = 8


def write_report(
    folder: Path,
    evaluation: Mapping[str, Any],
    parity: Parity,
    runs: Mapping[str, RunRecord],
    examples: Sequence[Example],
    gate: Gate,
) -> None:
    """Write index.html, figures/*.png and videos/*.mp4; those of an earlier report are removed.

    The page holds the figures and videos itself, so that it can be sent, and shown by MLflow, as one file. The files
    beside it are for talks and papers.

    Args:
        folder: reports/.
        evaluation: evaluation.json.
        parity: of the two runs.
        runs: both training runs, by stage.
        examples: clips to show; the first of their decodings is the one in the videos.
        gate: drawn into the curves.
    """
    figures, videos = folder / "figures", folder / "videos"
    for stale in (figures, videos):
        shutil.rmtree(stale, ignore_errors=True)
    curves = figures / "curves.png"
    write_curves({name: run.history for name, run in runs.items()}, gate, curves)
    page = render(
        evaluation,
        parity,
        {name: run.summary for name, run in runs.items()},
        curves=curves.read_bytes(),
        clips=[_draw(example, figures, videos) for example in examples],
    )
    atomic_files.write_text(folder / "index.html", page)


def _draw(example: Example, figures: Path, videos: Path) -> ShownClip:
    strip, video = figures / f"{example.file_stem}.png", videos / f"{example.file_stem}.mp4"
    shown = next(iter(example.decoded))
    write_strip(example, strip)
    write_side_by_side(example, shown, video)
    title = f"{example.record.source}, from frame {example.record.first_frame}"
    return ShownClip(title, shown, strip.read_bytes(), video.read_bytes())


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
