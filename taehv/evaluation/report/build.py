"""Everything below reports/ that is made from finished measurements: figures, videos, the page."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taehv.config.params import Gate
from taehv.evaluation.parity import Parity, RunRecord
from taehv.evaluation.report.curves import write_curves
from taehv.evaluation.report.examples import Example
from taehv.evaluation.report.html import ShownClip, render
from taehv.evaluation.report.strips import write_strip
from taehv.evaluation.report.video import write_side_by_side
from taehv.runtime import atomic_files


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
