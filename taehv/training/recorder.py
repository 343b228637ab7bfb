"""Where training reports to. Training itself knows no tracking library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Recorder(Protocol):
    """Takes metrics by step; the stage decides where they go."""

    @property
    def kept_at_start(self) -> int:
        """How many events there were, from earlier executions, when this one began."""
        ...

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def keep(self) -> int:
        """Put on disk what was recorded so far, and say how many events that is."""
        ...


class NullRecorder:
    """For the processes that do not report: all but the first."""

    kept_at_start = 0

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing: the first process reports for all."""

    def keep(self) -> int:
        """Nothing is kept."""
        return 0
