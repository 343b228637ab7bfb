"""The few numbers that `dvc metrics show` and `dvc exp show` have columns for, in one small file per stage.

DVC makes a column of every key of a file that dvc.yaml lists under ``metrics``. So everything else that a stage found
out is in ordinary outputs beside these files: summary.json, gate_psnr.json, evaluation.json, parity.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from taehv.runtime import atomic_files, paths

Name = Literal["psnr", "ssim", "step", "passed", "psnr_on_teacher_latents", "delta_db"]
"""``psnr`` (dB) and ``ssim``: of a training its best validation, of the gate the one that it judged, of the evaluation
h100_train's test clips. ``step``: where the first two were measured. ``passed``: the verdict.
``psnr_on_teacher_latents`` (dB): h100_train's decoder on the test clips. ``delta_db``: the largest PSNR difference
between the two trainings at one step."""

MOST_NAMES = 8
"""Over all files, so that a table of them fits a terminal."""

FILES: Mapping[str, Path] = {
    "a800_test": paths.training_outputs("a800_test").metrics,
    "gate_psnr": paths.GATE_METRICS,
    "h100_train": paths.training_outputs("h100_train").metrics,
    "evaluate": paths.REPORT_METRICS,
}


def write(path: Path, values: Mapping[Name, float | bool | None]) -> None:
    """A stage's metrics; what could not be measured (None) is left out, and DVC shows a dash."""
    assert values.keys() <= set(get_args(Name))
    atomic_files.write_json(path, {name: value for name, value in values.items() if value is not None})


def delete_earlier(stage: str) -> None:
    """At a stage's start: if it fails, no number of an earlier run may stand where its own would."""
    FILES[stage].unlink(missing_ok=True)
