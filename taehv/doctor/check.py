"""What a check has found, and all findings as lines for people and as JSON for scripts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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


COLOURS: dict[Level, str] = {"pass": "\033[32m", "warn": "\033[33m", "fail": "\033[1;31m"}
END_COLOUR = "\033[0m"


def lines(check_results: Sequence[Check], *, colours: bool = False) -> Iterable[str]:
    """One line per finding, in columns, and below it what to do."""
    width = max((len(check_result.name) for check_result in check_results), default=0)
    for check_result in check_results:
        level = f"{COLOURS[check_result.level]}{check_result.level}{END_COLOUR}" if colours else check_result.level
        detail = check_result.detail.replace("\n", " ")
        yield f"{level}  {check_result.name:<{width}}  {detail}"
        if check_result.what_to_do is not None:
            yield f"      {'':<{width}}  -> {check_result.what_to_do}"


def summary(check_results: Sequence[Check]) -> str:
    """`doctor: 23 checks passed, 1 warning, 2 failed`; what there is none of is not mentioned."""
    counts = Counter(check_result.level for check_result in check_results)
    parts = [f"{_count(counts['pass'], 'check')} passed"]
    if counts["warn"]:
        parts.append(_count(counts["warn"], "warning"))
    if counts["fail"]:
        parts.append(f"{counts['fail']} failed")
    return f"doctor: {', '.join(parts)}"


def as_json(check_results: Sequence[Check]) -> dict[str, Any]:
    """The whole report."""
    return {
        "schema": 1,
        "passed": not has_failed(check_results),
        "findings": [dataclasses.asdict(f) for f in check_results],
    }


def has_failed(check_results: Sequence[Check]) -> bool:
    """Whether something must be fixed before the run."""
    return any(check_result.level == "fail" for check_result in check_results)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
