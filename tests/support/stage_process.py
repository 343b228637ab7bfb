"""A training stage that gets a signal at one exact moment. It sends it to itself; everything else is the real stage.

    python stage_process.py STAGE SIGNAL MOMENT [COUNT [STEP]]

MOMENT is a name of MOMENTS; with COUNT n, the n-th time. ``hang`` as SIGNAL stops there for ten minutes; SIGNAL+SIGNAL
sends two; ``no memory`` lets the process have what it has and no more. The validation of STEP gives a PSNR that is not
a number.
"""

from __future__ import annotations

import importlib
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.entry import run_stage
from stages.training_stage import run_training_stage
from taehv.training.state import HistoryEntry, TrainingState
from taehv.training.validation import Validator

MOMENTS = {
    "a step": "taehv.training.train_step.TrainStep.__call__",
    "a validation": "taehv.training.validation.Validator._measure",
    "writing the history": "taehv.training.run_files.write_history",
    "replacing the best model": "taehv.training.run_files.shutil.rmtree",
    "writing a checkpoint's files": "taehv.training.checkpoint_writer.write_files",
    "writing a checkpoint's manifest": "taehv.training.checkpoint_writer.write_checkpoint_manifest",
    "putting a checkpoint in place": "taehv.training.checkpoint_writer._put_in_place",
    "deleting an old checkpoint": "taehv.training.checkpoint_writer.shutil.rmtree",
    "telling the tracking of the model": "taehv.tracking.run.StageRun.model",
    "marking the training as finished": "taehv.training.finished_work.mark_finished",
    "publishing": "taehv.training.run_files._replace",
}
"""By name, the function after whose call it happens."""


def main() -> int:
    stage, what, moment = sys.argv[1:4]
    count = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    if os.environ.get("RANK", "0") == "0":
        after(MOMENTS[moment], count, lambda: send(what))
    if len(sys.argv) > 5:
        spoil_validation(step=int(sys.argv[5]))
    assert stage in ("a800_test", "h100_train")
    return run_training_stage(stage, lambda params: None, [])  # type: ignore[arg-type]


def send(what: str) -> None:
    if what == "hang":
        print("hanging", flush=True)
        time.sleep(600)
    elif what == "no memory":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(),) * 2)
    else:
        for name in what.split("+"):
            os.kill(os.getpid(), getattr(signal, name))


def spoil_validation(step: int) -> None:
    measure = Validator.__call__

    def spoiled(self: Validator, state: TrainingState, train_loss: float | None) -> HistoryEntry:
        entry = measure(self, state, train_loss)
        return entry | {"psnr": math.nan} if state.progress.step == step else entry

    Validator.__call__ = spoiled  # type: ignore[method-assign]


def after(name: str, count: int, then: Callable[[], None]) -> None:
    """Call ``then`` after the count-th call of the function ``name``."""
    module_name, attribute = name, ""
    parts: list[str] = []
    while True:
        try:
            owner: Any = importlib.import_module(module_name)
            break
        except ModuleNotFoundError:
            module_name, _, attribute = module_name.rpartition(".")
            parts.insert(0, attribute)
    for part in parts[:-1]:
        owner = getattr(owner, part)
    function, calls = getattr(owner, parts[-1]), [0]

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        result = function(*arguments, **keywords)
        calls[0] += 1
        if calls[0] == count:
            then()
        return result

    setattr(owner, parts[-1], wrapped)


if __name__ == "__main__":
    run_stage(main)
