"""In which order the videos take turns: every one is visited once before any is visited twice.

Slot number n of a training (n = step * global batch + slot) is place n mod s of turn n // s, where s is the number of
videos; here is decided which video that is. Each rule is a pure function of the seed, the turn and the place.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from taehv.data.permutation import ROUNDS, Places, permuted
from taehv.runtime.counter_random import Purpose, Words, words_at

MOST_SORTED = 64
"""Up to so many videos the order of a turn is made by sorting, beyond it by a permutation that needs no table."""


class SourceOrder(Protocol):
    def at(self, turns: Places, places: Places) -> Places:
        """The number of the video at each (turn, place), (n,) each."""
        ...


def source_order(seed: int, shards: npt.NDArray[np.integer] | None, sources: int, block_shards: int) -> SourceOrder:
    """The rule for a training.

    Args:
        seed: of the training.
        shards: (sources,) the number of the shard that holds each video; None where ``block_shards`` is 0.
        sources: how many videos there are.
        block_shards: the videos of so many successive shards are visited one after the other; 0: all are mixed.
    """
    if block_shards:
        assert shards is not None
        blocks = np.unique(shards, return_inverse=True)[1] // block_shards
        return BlockedOrder(seed, np.flatnonzero(np.diff(blocks, prepend=-1)), sources)
    return SortedOrder(seed, sources) if sources <= MOST_SORTED else PermutedOrder(seed, sources)


class SortedOrder:
    """The videos sorted by a random word each: for few videos."""

    def __init__(self, seed: int, sources: int) -> None:
        self._seed = seed
        self._sources = sources

    def at(self, turns: Places, places: Places) -> Places:
        distinct, which = np.unique(turns, return_inverse=True)
        keys = _words(self._seed, Purpose.SOURCE_ORDER, distinct, np.zeros_like(distinct), self._sources)
        order: Places = np.argsort(keys, axis=1, kind="stable")[which, places]
        return order


class PermutedOrder:
    """A keyed permutation: for any number of videos, at the same cost."""

    def __init__(self, seed: int, sources: int) -> None:
        self._seed = seed
        self._sources = sources

    def at(self, turns: Places, places: Places) -> Places:
        keys = _words(self._seed, Purpose.SOURCE_PERMUTATION, turns, np.zeros_like(turns), ROUNDS)
        return permuted(places, np.full_like(places, self._sources), keys)


class BlockedOrder:
    """Blocks of shards in random order, and the videos of each block in random order: for stores on slow disks.

    Successive slots read from one block, or from two where one ends: from a bounded number of shards.
    """

    def __init__(self, seed: int, first_sources: Places, sources: int) -> None:
        """``first_sources``: (blocks,) the first video of each block, from 0 on, increasing."""
        self._seed = seed
        self._first = first_sources
        self._sizes = np.diff(first_sources, append=sources)
        # A step is within one turn, or two: what is kept is computed again at any time, and only saves that.
        self._blocks_of_turn = lru_cache(maxsize=4)(self._blocks_in_order)

    def at(self, turns: Places, places: Places) -> Places:
        sources = np.empty_like(places)
        for turn in np.unique(turns):
            chosen = turns == turn
            sources[chosen] = self._at(int(turn), places[chosen])
        return sources

    def _at(self, turn: int, places: Places) -> Places:
        order, ends = self._blocks_of_turn(turn)
        position = np.searchsorted(ends, places, side="right")
        blocks = order[position]
        sizes = self._sizes[blocks]
        within = places - (ends[position] - sizes)
        keys = _words(self._seed, Purpose.SOURCE_PERMUTATION, np.full_like(blocks, turn), blocks + 1, ROUNDS)
        return self._first[blocks] + permuted(within, sizes, keys)

    def _blocks_in_order(self, turn: int) -> tuple[Places, Places]:
        """The blocks in this turn's order, and where each ends among the turn's places."""
        blocks = np.arange(len(self._first))
        keys = _words(self._seed, Purpose.BLOCK_ORDER, np.full_like(blocks, turn), blocks, 1)[:, 0]
        order = np.argsort(keys, kind="stable")
        return order, np.cumsum(self._sizes[order])


def _words(seed: int, purpose: Purpose, first: Places, second: Places, count: int) -> Words:
    return words_at(seed, purpose, first.astype(np.uint64), second.astype(np.uint64), count)
