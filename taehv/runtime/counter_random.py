"""Random numbers that are a pure function of what they are for: no state, no order of calls."""

from __future__ import annotations

import enum

import numpy as np


class Purpose(enum.IntEnum):
    """Separates the random numbers of different questions asked with the same seed. A number, once used, stays."""

    SOURCE_ORDER = 1
    SLOT_DRAW = 2
    REPLAY = 3
    AUGMENT = 6


def words(seed: int, purpose: Purpose, where: tuple[int, int], count: int) -> list[int]:
    """``count`` random 64-bit words for one place in the run, such as (step, slot).

    Raw words of a counter-based generator are used, never numpy's distributions, whose results may change between
    numpy versions.
    """
    bits = np.random.Philox(
        key=np.array([seed, purpose], dtype=np.uint64), counter=np.array([0, 0, *where], dtype=np.uint64)
    )
    return [int(word) for word in bits.random_raw(count)]


def below(word: int, bound: int) -> int:
    """A uniform integer in 0 .. bound - 1 from a 64-bit word (the bias is below 2^-40 for any real bound)."""
    return word * bound >> 64


def unit(word: int) -> float:
    """A uniform float in [0, 1), a multiple of 2^-53, from a 64-bit word."""
    return (word >> 11) * 2.0**-53
