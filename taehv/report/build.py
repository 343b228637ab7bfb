"""Everything below reports/ that is made from finished measurements: figures, videos, the page."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taehv import atomic
from taehv.params import Gate
from taehv.parity import Parity, RunRecord
from taehv.report.curves import write_curves
from taehv.report.examples import Example
from taehv.report.html import render
from taehv.report.strips import write_strip
from taehv.report.video import write_side_by_side


def write_report(
    folder: Path,
    evaluation: Mapping[str, Any],
    parity: Parity,
    runs: Mapping[str, RunRecord],
    examples: Sequence[Example],
    gate: Gate,
) -> None:
    """Write index.html, figures/*.png and videos/*.mp4; those of an earlier report are removed.

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
    write_curves({name: run.history for name, run in runs.items()}, gate, figures / "curves.png")
    for example in examples:
        write_strip(example, figures / f"{example.file_stem}.png")
        write_side_by_side(example, next(iter(example.decoded)), videos / f"{example.file_stem}.mp4")
    page = render(
        evaluation,
        parity,
        {name: run.summary for name, run in runs.items()},
        strips=[f"figures/{example.file_stem}.png" for example in examples],
        videos=[f"videos/{example.file_stem}.mp4" for example in examples],
    )
    atomic.write_text(folder / "index.html", page)
