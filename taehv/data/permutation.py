"""A keyed permutation of 0 .. n - 1 that is computed where it is asked, for any n, without a table.

A Feistel network is a bijection whatever its round function is; with four rounds or more and good round functions it
cannot be told from a random permutation (Luby and Rackoff 1988, "How to construct pseudorandom permutations from
pseudorandom functions"). It permutes a square of a x a >= n places, and what falls outside of n is permuted again until
it falls inside: cycle walking (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). The square is the
smallest one, so that hardly anything has to walk.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from taehv.runtime.counter_random import Words

ROUNDS = 8
"""Twice as many as the proof asks for: it is about large squares, and ours may have 9 x 9 places."""

LARGEST = 2**40
"""The largest n: up to here the side of the square, from a floating-point root, is exact."""

Places = npt.NDArray[np.int64]


def permuted(places: Places, sizes: Places, keys: Words) -> Places:
    """Where each place goes.

    Args:
        places: (n,) numbers in 0 .. size - 1.
        sizes: (n,) how many places there are, each its own; 1 .. LARGEST.
        keys: (n, ROUNDS) words that choose the permutation; equal sizes and keys mean the same one.
    """
    sides = np.ceil(np.sqrt(sizes.astype(np.float64))).astype(np.uint64)
    found = places.astype(np.uint64)
    outside = np.arange(len(found))
    while len(outside):
        found[outside] = _feistel(found[outside], sides[outside], keys[outside])
        outside = outside[found[outside] >= sizes[outside].astype(np.uint64)]
    return found.astype(np.int64)


def _feistel(places: Words, sides: Words, keys: Words) -> Words:
    left, right = places // sides, places % sides
    for number in range(ROUNDS):
        left, right = right, (left + _mixed(right ^ keys[:, number]) % sides) % sides
    return left * sides + right


def _mixed(words: Words) -> Words:
    """Every bit of the result depends on every bit of the word: the finaliser of MurmurHash3 (Appleby 2011)."""
    words = (words ^ words >> np.uint64(33)) * np.uint64(0xFF51AFD7ED558CCD)
    words = (words ^ words >> np.uint64(33)) * np.uint64(0xC4CEB9FE1A85EC53)
    return words ^ words >> np.uint64(33)
