"""Reading what a training run left behind, strictly enough to be judged by it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taehv.runtime.errors import UserError
from taehv.runtime.paths import TrainingOutputs

HistoryRow = dict[str, Any]
"""One validation, a row of the history: ``step``, ``psnr``, ``ssim``, ``lpips``, ``train_loss`` and more."""


class RecordError(UserError):
    """A file of a training run that is missing, unreadable or not what it should be."""


def read_record(path: Path, schema: int = 1) -> dict[str, Any]:
    """A JSON file of ours: a mapping with ``"schema"`` as given.

    Raises:
        RecordError: it is missing, not JSON, or of another schema.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError(f"{path} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict) or record.get("schema") != schema:
        raise RecordError(f'{path} is not a mapping with "schema": {schema}')
    return record


def read_summary(outputs: TrainingOutputs) -> dict[str, Any]:
    """summary.json of a finished training.

    Raises:
        RecordError: as ``read_record``; where an older version of this project left metrics.json in its place, so too.
    """
    if not outputs.summary.exists() and outputs.metrics.exists() and "schema" in read_record(outputs.metrics):
        raise RecordError(
            f"{outputs.summary} is missing: {outputs.root} is of an older version of this project, which wrote "
            f"{outputs.metrics.name} instead; train it again: dvc repro {outputs.root.name}"
        )
    summary = read_record(outputs.summary)
    check_fields(summary, outputs.summary)
    return summary


def read_history(path: Path) -> tuple[HistoryRow, ...]:
    """The validations of a run, by rising step; possibly none.

    Raises:
        RecordError: as ``read_record``, or rows without a step, or steps that do not rise.
    """
    rows = read_record(path).get("history")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RecordError(f'{path}: "history" is not a list of validations')
    steps = [row.get("step") for row in rows]
    if not all(isinstance(step, int) and not isinstance(step, bool) for step in steps):
        raise RecordError(f"{path}: a validation has no whole-numbered step")
    if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        raise RecordError(f"{path}: the steps do not rise: {steps}")
    return tuple(rows)


def check_fields(summary: Mapping[str, Any], path: Path) -> None:
    """Whether the parts of a training's summary that others look into are what they should be.

    Raises:
        RecordError: one of them is of another kind, or a number is not finite, which no JSON file of ours holds.
    """
    batch, resumed = summary.get("batch"), summary.get("resumed_from")
    if batch is not None and not isinstance(batch, dict):
        raise RecordError(f'{path}: "batch" is not a mapping')
    step = resumed.get("step") if isinstance(resumed, dict) else None
    if resumed is not None and (not isinstance(step, int) or isinstance(step, bool)):
        raise RecordError(f'{path}: "resumed_from" has no whole-numbered step')
    check_writable(summary, path)


def check_writable(content: Mapping[str, Any], path: Path) -> None:
    """Whether a report can repeat what ``path`` says.

    Raises:
        RecordError: it holds NaN, infinity, a date or what else JSON has no word for; no file of ours does.
    """
    try:
        json.dumps(content, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise RecordError(f"{path} is damaged: it holds what no record of a run does ({error})") from error


def finite(value: object) -> float | None:
    """``value`` as a float where it is a finite number; None for NaN, infinity, null and anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON's integers have no end
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class TrackingIds:
    """Under which ids a training run and its best model were tracked."""

    run_id: str | None
    """None where the tracking store could not be reached while the stage ran."""
    model_id: str | None
    key: str | None
    """Finds both once they are in the store; None where the stage did not track."""

    @property
    def known(self) -> bool:
        return self.key is not None or None not in (self.run_id, self.model_id)


def read_tracking_ids(path: Path) -> TrackingIds:
    """The ids that a training stage noted; all None where it did not track.

    Raises:
        RecordError: the file is there but unreadable.
    """
    if not path.exists():
        return TrackingIds(None, None, None)
    record = read_record(path)
    return TrackingIds(record.get("run_id"), record.get("model_id"), record.get("key"))
