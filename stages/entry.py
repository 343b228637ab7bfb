"""How every stage starts and ends. Imported before torch."""

import os

# GNU OpenMP's threads wait for each other by spinning. Beside another busy process a training step then takes 40 times
# as long: 13.6 s on 2 cores instead of 0.33 s. With this limit it takes 0.9 s, and alone as long as without
# (benchmarks/RESULTS.md).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from collections.abc import Callable
from typing import NoReturn

from taehv import stop_signals
from taehv.errors import EXIT_FAILED, Interrupted, exit_with

__all__ = ["EXIT_FAILED", "run_stage"]


def run_stage(main: Callable[[], int]) -> NoReturn:
    """Exit with what ``main`` returns, or as taehv/errors.py says for what it raises.

    A request to stop raises Interrupted where the stage is, so that its tracked run ends, too; training, which has
    something to save, listens itself. A second request ends the process at once.
    """

    def stoppable() -> int:
        with stop_signals.listening(_interrupt, stop_signals.end_at_once):
            return main()

    exit_with(stoppable)


def _interrupt(name: str) -> None:
    raise Interrupted(name, stop_signals.EXIT_CODES[name], "run the same command again to start this stage anew")
