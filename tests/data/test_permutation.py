from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from taehv.data.permutation import LARGEST, ROUNDS, permuted
from taehv.runtime.counter_random import Purpose, Words, words_at

seeds = st.integers(0, 2**32 - 1)


def keys(seed: int, turns: np.ndarray) -> Words:
    return words_at(seed, Purpose.SOURCE_PERMUTATION, turns.astype(np.uint64), np.zeros(len(turns), np.uint64), ROUNDS)


def whole(size: int, seed: int, turn: int = 0) -> list[int]:
    places = np.arange(size)
    return permuted(places, np.full(size, size), keys(seed, np.full(size, turn))).tolist()


@given(st.integers(1, 3000), seeds)
def test_it_is_a_bijection_for_any_size(size: int, seed: int) -> None:
    assert sorted(whole(size, seed)) == list(range(size))


@given(st.integers(65, 500), seeds, st.integers(0, 10**6))
def test_another_key_is_another_permutation(size: int, seed: int, turn: int) -> None:
    assert whole(size, seed, turn) != whole(size, seed, turn + 1)


@given(st.lists(st.tuples(st.integers(1, LARGEST), st.integers(0, 10**6)), min_size=1, max_size=30), seeds)
def test_each_place_is_permuted_within_its_own_size_whatever_stands_beside_it(
    asked: list[tuple[int, int]], seed: int
) -> None:
    sizes, turns = (np.array(column) for column in zip(*asked, strict=True))
    places = sizes // 2
    together = permuted(places, sizes, keys(seed, turns))
    assert ((together >= 0) & (together < sizes)).all()
    alone = [int(permuted(places[[i]], sizes[[i]], keys(seed, turns[[i]]))[0]) for i in range(len(asked))]
    assert together.tolist() == alone


def test_every_place_goes_everywhere_equally_often() -> None:
    size, turns = 67, 4000
    places = np.tile(np.arange(size), turns)
    numbers = np.repeat(np.arange(turns), size)
    found = permuted(places, np.full_like(places, size), keys(1, numbers))
    counts = np.zeros((size, size))
    np.add.at(counts, (places, found), 1)
    expected = turns / size
    # Chi-squared of (size - 1)^2 degrees of freedom: within 5 standard deviations of its mean.
    statistic, freedom = ((counts - expected) ** 2 / expected).sum(), (size - 1) ** 2
    assert abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5


def test_neighbours_do_not_stay_neighbours() -> None:
    found = np.array(whole(10_000, seed=3))
    assert (np.abs(np.diff(found)) < 100).mean() < 0.03
