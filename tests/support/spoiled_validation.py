"""The stage a800_test, whose validation at one step gives a PSNR that is not a number; everything else is real.

python spoiled_validation.py STEP
"""

from __future__ import annotations

import math
import sys

from stages.entry import run_stage
from stages.training_stage import run_training_stage
from taehv.training.state import HistoryEntry, TrainingState
from taehv.training.validation import Validator


def spoil_validation(step: int) -> None:
    measure = Validator.__call__

    def spoiled(self: Validator, state: TrainingState, train_loss: float | None) -> HistoryEntry:
        entry = measure(self, state, train_loss)
        return entry | {"psnr": math.nan} if state.progress.step == step else entry

    Validator.__call__ = spoiled  # type: ignore[method-assign]


if __name__ == "__main__":
    spoil_validation(step=int(sys.argv[1]))
    run_stage(lambda: run_training_stage("a800_test", lambda params: None, []))
