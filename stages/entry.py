"""How every stage starts and ends. Imported before torch."""

import os

# GNU OpenMP's threads wait for each other by spinning. Beside another busy process a training step then takes 40 times
# as long: 13.6 s on 2 cores instead of 0.33 s. With this limit it takes 0.9 s, and alone as long as without
# (benchmarks/RESULTS.md).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import signal
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from taehv.errors import EXIT_CODES, EXIT_FAILED, STOP_SIGNALS, Interrupted, exit_with

__all__ = ["EXIT_FAILED", "run_stage"]


def run_stage(main: Callable[[], int]) -> NoReturn:
    """Exit with what ``main`` returns, or as errors demand (``taehv.errors.exit_code``).

    The first request to stop ends the stage in order, so that its tracked run says so; a second one ends it at once.
    A training listens for itself while it trains, because it finishes its step first.
    """
    for name in STOP_SIGNALS:
        number = getattr(signal, name)
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup: a closed terminal is no request
            signal.signal(number, _stop)
    exit_with(main)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    for name in STOP_SIGNALS:
        if signal.getsignal(getattr(signal, name)) is _stop:
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    name = signal.Signals(number).name
    raise Interrupted(name, EXIT_CODES[name], "what was complete before is untouched; run the same command again")
