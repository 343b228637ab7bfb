"""Something happens to a real process at a named moment: the environments that ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from support.project import wait_for

from taehv.runtime.failpoints import VARIABLE, Failpoint


def at(moment: Failpoint, action: str, count: int = 1) -> dict[str, str]:
    """Environment of a process that does ``action`` to itself when it passes ``moment`` for the ``count``-th time."""
    return {VARIABLE: f"{moment}:{count}:{action}"}


@dataclass(frozen=True)
class Hold:
    """Processes that wait at a moment, however fast or slow the machine is, until ``file`` is there."""

    file: Path

    def at(self, moment: Failpoint, count: int = 1) -> dict[str, str]:
        """Environment of such a process."""
        return at(moment, f"hold={self.file}", count)

    def wait(self) -> int:
        """Until a process is held; its id."""
        held = self.file.with_name(f"{self.file.name}.held")
        wait_for(held.exists, "a process that is held")
        return int(held.read_text())

    def release(self) -> None:
        """Also those that come later."""
        self.file.touch()
