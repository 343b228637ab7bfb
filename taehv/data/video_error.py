"""Why a video cannot be used."""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "missing",
    "unreadable",
    "changed",
    "duplicate",
    "corrupt",
    "truncated",
    "no video stream",
    "unsupported",
    "hdr",
    "interlaced",
    "too large",
    "too small",
    "too short",
]


class VideoError(Exception):
    """A video that cannot be used."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail
