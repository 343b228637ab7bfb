"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    """What was looked at; short, it is a column."""
    level: Level
    """`fail`: the run would be lost, or could not start. `warn`: it can run, but someone should know."""
    detail: str
    """What was found, with its numbers."""
    what_to_do: str | None = None
    """How to fix it; None only for a pass."""

    def __post_init__(self) -> None:
        assert (self.what_to_do is None) == (self.level == "pass"), f"{self.name}: advice belongs to what is wrong"


def size(count: float) -> str:
    """Bytes as a person reads them: `1.2 GB` (decimal units, as disks are sold)."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e6:.2f} MB"


def listed(names: list[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
