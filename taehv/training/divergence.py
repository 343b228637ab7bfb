"""Numbers that have gone wrong: when to stop, and what to say about it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from taehv.config.params import Faults
from taehv.data.sampler import SlotDraw
from taehv.runtime import atomic_files
from taehv.runtime.errors import UserError
from taehv.training.state import Progress
from taehv.training.train_step import StepReport

AVERAGE_DECAY = 0.99
"""Of the running average of the loss: about 100 steps."""

LOWER_THE_RATE = "lower the learning rate (optim.lr, optim.muon_lr) or look at the clips; faults.{} is the limit"
NO_STEP_YET = (
    "look at the weights that training started from (model.weights, model.init), at the loss weights and at the clips: "
    "no step has been applied yet, so it is not the learning rate"
)
Kind = Literal["not finite", "loss spike"]


class DivergenceError(UserError):
    """Training stopped because its numbers have gone wrong; ``report`` holds the facts."""

    def __init__(self, message: str, report: Path) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Divergence:
    kind: Kind
    step: int
    detail: str
    advice: str


def note_step(progress: Progress, report: StepReport, limits: Faults) -> Divergence | None:
    """Count a step that was just done; returns the divergence that has to stop the training, if it is one.

    A skipped step leaves the averages as they were.
    """
    # The average begins with the first step that was applied, in this run or in the one that it goes on from.
    applied_a_step = progress.loss_average is not None
    if report.skipped:
        progress.skipped_steps += 1
        progress.skipped_in_a_row += 1
        if progress.skipped_in_a_row <= limits.max_skipped:
            return None
        return Divergence(
            "not finite",
            progress.step,
            f"loss or gradient was not finite in {progress.skipped_in_a_row} successive steps"
            + ("" if applied_a_step else ", the first ones"),
            LOWER_THE_RATE.format("max_skipped") if applied_a_step else NO_STEP_YET,
        )
    progress.skipped_in_a_row = 0
    loss = report.distance
    average = progress.loss_average
    progress.loss_average = loss if average is None else AVERAGE_DECAY * average + (1.0 - AVERAGE_DECAY) * loss
    if average is None or not loss > limits.max_loss_spike * average:
        return None
    return Divergence(
        "loss spike",
        progress.step,
        f"the loss, {loss:.4g}, is {loss / average:.1f} times its running average, {average:.4g}",
        LOWER_THE_RATE.format("max_loss_spike"),
    )


def stop_for(
    found: Divergence,
    report: StepReport,
    draws: list[SlotDraw],
    checkpoint: Path | None,
    file: Path,
    *,
    write: bool = True,
) -> NoReturn:
    """Write down what is known and end the training.

    Args:
        found: why.
        report: the step at which it was noticed.
        draws: the clips that step trained on, or those that caused it where they are known.
        checkpoint: the newest one from before it; None if there is none.
        file: where the report goes.
        write: on one process only; all raise the same error.

    Raises:
        DivergenceError: always.
    """
    facts: dict[str, Any] = {
        "schema": 1,
        **dataclasses.asdict(found),
        "loss": _shown(report.loss),
        "terms": {term: _shown(value) for term, value in report.terms.items()},
        "weights": report.weights,
        "gradient_norm": _shown(report.gradient_norm),
        "clips": [dataclasses.asdict(draw) for draw in draws],
        "checkpoint": str(checkpoint) if checkpoint is not None else None,
    }
    if write:
        atomic_files.write_json(file, facts)
    raise DivergenceError(
        f"stopped at step {found.step}: {found.detail} (clips {clip_ids(draws)}). To fix it, {found.advice}; "
        f"{last_good_checkpoint(checkpoint)}, and everything that is known is in {file}",
        file,
    )


def last_good_checkpoint(checkpoint: Path | None) -> str:
    """For a message."""
    return f"the last good checkpoint is {checkpoint}" if checkpoint is not None else "there is no checkpoint yet"


def clip_ids(draws: list[SlotDraw]) -> str:
    """For a message."""
    return ", ".join(str(draw.clip_id) for draw in draws)


def _shown(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
