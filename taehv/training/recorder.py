"""Where training reports to. Training itself knows no tracking library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Recorder(Protocol):
    """Takes metrics by step; the stage decides where they go."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...


class NullRecorder:
    """For the processes that do not report: all but the first."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing: the first process reports for all."""
