"""Random numbers that are a pure function of what they are for: no state, no order of calls."""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
"""Random 64-bit words."""

# Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), as numpy.random.Philox has it.
_MULTIPLIERS = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_KEY_STEPS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_ROUNDS = 10
_WORDS_PER_BLOCK = 4
_HALF, _LOW_HALF = np.uint64(32), np.uint64(2**32 - 1)


class Purpose(enum.IntEnum):
    """Separates the random numbers of different questions asked with the same seed. A number, once used, stays."""

    SOURCE_ORDER = 1
    SLOT_DRAW = 2
    REPLAY = 3
    SOURCE_PERMUTATION = 4
    BLOCK_ORDER = 5
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


def words_at(seed: int, purpose: Purpose, first: Words, second: Words, count: int) -> Words:
    """The same words as ``words``, of many places at once: (places, count).

    Making a generator for each of a step's 128 slots takes 50 times as long as counting with arrays.

    Args:
        seed, purpose, count: as in ``words``.
        first, second: (places,) the two numbers of each place.
    """
    blocks = -(-count // _WORDS_PER_BLOCK)
    numbers = np.arange(1, blocks + 1, dtype=np.uint64)  # numpy counts up before it makes a block, too
    shape = (len(first), blocks)
    zeros = np.zeros(shape, dtype=np.uint64)
    counter = [zeros + numbers, zeros, zeros + first[:, None], zeros + second[:, None]]
    keys = [seed, int(purpose)]
    for _ in range(_ROUNDS):
        (high0, low0), (high1, low1) = _product(_MULTIPLIERS[0], counter[0]), _product(_MULTIPLIERS[1], counter[2])
        key0, key1 = (np.uint64(key) for key in keys)
        counter = [high1 ^ counter[1] ^ key0, low1, high0 ^ counter[3] ^ key1, low0]
        keys = [(key + step) % 2**64 for key, step in zip(keys, _KEY_STEPS, strict=True)]
    return np.stack(counter, axis=-1).reshape(len(first), blocks * _WORDS_PER_BLOCK)[:, :count]


def below_each(drawn: Words, bounds: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """``below`` of many words at once; the bounds are below 2^32."""
    bounds64 = bounds.astype(np.uint64)
    low = (drawn & _LOW_HALF) * bounds64 >> _HALF
    return ((drawn >> _HALF) * bounds64 + low >> _HALF).astype(np.int64)


def _product(a: np.uint64, b: Words) -> tuple[Words, Words]:
    """The upper and lower 64 bits of a product."""
    a_high, a_low, b_high, b_low = a >> _HALF, a & _LOW_HALF, b >> _HALF, b & _LOW_HALF
    middle = a_high * b_low + (a_low * b_low >> _HALF)
    other = a_low * b_high + (middle & _LOW_HALF)
    return a_high * b_high + (middle >> _HALF) + (other >> _HALF), a * b


def below(word: int, bound: int) -> int:
    """A uniform integer in 0 .. bound - 1 from a 64-bit word (the bias is below 2^-40 for any real bound)."""
    return word * bound >> 64


def unit(word: int) -> float:
    """A uniform float in [0, 1), a multiple of 2^-53, from a 64-bit word."""
    return (word >> 11) * 2.0**-53
