"""Requests to stop: signals, and the death of whoever started the training.

A request ends the training after the current step, with a checkpoint. A second request ends the process at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

import psutil
import torch
from accelerate import Accelerator

from taehv.runtime import signals

PARENT_DIED = "the death of its parent"
EXIT_CODES = {**signals.EXIT_CODES, PARENT_DIED: 143}
"""By reason, in the order in which one is named where several came."""

_STARTERS = {"dvc", "mlflow", "torchrun", "accelerate"}
_STARTER_MODULES = {
    "dvc", "mlflow", "taehv.launch", "torch.distributed.run", "accelerate.commands.launch",
    "stages.a800_test", "stages.h100_train",
}  # fmt: skip


class StopRequests:
    """What has asked this process to stop."""

    def __init__(self) -> None:
        self._signals: set[str] = set()
        self._starters = _starters(psutil.Process().parents())
        self._launcher_is_gone = False
        if pid := os.environ.get(signals.LAUNCHER_VARIABLE):
            try:
                self._starters.append(psutil.Process(int(pid)))
            except psutil.NoSuchProcess:
                self._launcher_is_gone = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are noted instead of ending the process; one that was ignored before (nohup) stays ignored."""
        with signals.listening(self._signals.add, signals.end_at_once):
            yield

    @property
    def pending(self) -> set[str]:
        """The reasons so far, names of EXIT_CODES."""
        dead = self._launcher_is_gone or not all(map(_is_alive, self._starters))
        return self._signals | ({PARENT_DIED} if dead else set())

    def agreed(self, accelerator: Accelerator) -> str | None:
        """What any process was asked, the same answer on all of them; None if nothing. All processes call it."""
        reasons = list(EXIT_CODES)
        own = self.pending
        if accelerator.num_processes > 1:
            asked = torch.tensor([float(reason in own) for reason in reasons], device=accelerator.device)
            total = accelerator.reduce(asked, reduction="sum").tolist()
            own = {reason for reason, count in zip(reasons, total, strict=True) if count}
        return next((reason for reason in reasons if reason in own), None)


def _starters(ancestors: list[psutil.Process]) -> list[psutil.Process]:
    """The ancestors, nearest first, up to the last one that is a program which runs stages.

    A shell above them may end while training goes on (nohup); a shell between them and the training is theirs.
    """
    known = [i for i, process in enumerate(ancestors) if _runs_stages(process)]
    return ancestors[: known[-1] + 1] if known else []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _runs_stages(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()[:5]
    except psutil.Error:
        return False
    modules = {command[i + 1] for i, word in enumerate(command[:-1]) if word == "-m"}
    return bool(modules & _STARTER_MODULES or {PurePath(word).name for word in command[:2]} & _STARTERS)
