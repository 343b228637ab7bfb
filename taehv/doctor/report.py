"""The findings as lines for people, and as JSON for scripts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from taehv.doctor.check_result import Finding, Level

COLOURS: dict[Level, str] = {"pass": "\033[32m", "warn": "\033[33m", "fail": "\033[1;31m"}
END_COLOUR = "\033[0m"


def lines(findings: Sequence[Finding], *, colours: bool = False) -> Iterable[str]:
    """One line per finding, in columns, and below it what to do."""
    width = max((len(finding.name) for finding in findings), default=0)
    for finding in findings:
        level = f"{COLOURS[finding.level]}{finding.level}{END_COLOUR}" if colours else finding.level
        detail = finding.detail.replace("\n", " ")
        yield f"{level}  {finding.name:<{width}}  {detail}"
        if finding.what_to_do is not None:
            yield f"      {'':<{width}}  -> {finding.what_to_do}"


def summary(findings: Sequence[Finding]) -> str:
    """`doctor: 23 checks passed, 1 warning, 2 failed`; what there is none of is not mentioned."""
    counts = Counter(finding.level for finding in findings)
    parts = [f"{_count(counts['pass'], 'check')} passed"]
    if counts["warn"]:
        parts.append(_count(counts["warn"], "warning"))
    if counts["fail"]:
        parts.append(f"{counts['fail']} failed")
    return f"doctor: {', '.join(parts)}"


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The whole report."""
    return {"schema": 1, "passed": not has_failed(findings), "findings": [dataclasses.asdict(f) for f in findings]}


def has_failed(findings: Sequence[Finding]) -> bool:
    """Whether something must be mended before the run."""
    return any(finding.level == "fail" for finding in findings)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
