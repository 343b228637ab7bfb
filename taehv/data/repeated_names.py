"""Names that come twice in a list of any length, found with 8 bytes for each name."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import numpy as np

_SUSPECTS = 100_000
"""Hashes that are looked into; of a list that repeats more names, not all of them are found."""


class RepeatedNames:
    """Remembers a 64-bit hash of each name; where two are equal, the names are read again and compared themselves."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def add(self, name: str) -> None:
        """Remember one more name."""
        # Python's own hash: it is fast, and needs to be the same in this process only.
        self._hashes.append(hash(name))

    def find(self, again: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Where each name is that was there before, and the name.

        Args:
            again: the same names in the same order, each with where it is; read only if two hashes are equal.
        """
        ordered = np.sort(np.frombuffer(self._hashes, np.int64)) if self._hashes else np.empty(0, np.int64)
        suspects = set(ordered[1:][ordered[1:] == ordered[:-1]][:_SUSPECTS].tolist())
        seen: set[str] = set()
        for where, name in again if suspects else ():
            if hash(name) in suspects:
                if name in seen:
                    yield where, name
                seen.add(name)
