"""Signals that ask a program to stop: which they are, how it ends then, and which of them are one request."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 143, "SIGHUP": 143}
"""SIGUSR1 is how Slurm announces pre-emption (`sbatch --signal=USR1@120`); it means the same as SIGTERM."""

LAUNCHER_VARIABLE = "TAEHV_LAUNCHER_PID"
"""Who runs the pipeline. DVC has a session of its own, so that it may outlive its launcher and start another stage."""

ONE_REQUEST_SECONDS = 1.0
"""A signal so soon after the first is the same request: `mlflow run` passes on the interrupt key, which the terminal
has already sent; Slurm and systemd signal every process, also those that are asked by the one that started them."""


@contextmanager
def listening(first: Callable[[str], None], again: Callable[[str], None]) -> Iterator[None]:
    """Call functions instead of ending the program; a signal that was ignored before (nohup) stays ignored.

    Args:
        first: is called with the signal's name when someone asks the program to stop.
        again: the same, when someone asks a second time.
    """
    first_at: float | None = None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first_at
        name = signal.Signals(number).name
        if first_at is None:
            first_at = time.monotonic()
            first(name)
        elif time.monotonic() - first_at > ONE_REQUEST_SECONDS:
            again(name)

    previous = {number: signal.getsignal(number) for number in (getattr(signal, name) for name in EXIT_CODES)}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def end_at_once(name: str) -> NoReturn:
    """Leave the process as it is, with the signal's exit code."""
    os._exit(EXIT_CODES[name])
