from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from taehv.runtime.counter_random import Purpose, below, below_each, words, words_at

numbers = st.integers(0, 2**64 - 1)


@given(st.integers(0, 2**32 - 1), st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20), st.integers(1, 20))
def test_many_places_at_once_have_the_words_of_numpys_generator(
    seed: int, places: list[tuple[int, int]], count: int
) -> None:
    first, second = (np.array(column, dtype=np.uint64) for column in zip(*places, strict=True))
    found = words_at(seed, Purpose.SLOT_DRAW, first, second, count)
    assert found.tolist() == [words(seed, Purpose.SLOT_DRAW, place, count) for place in places]


@given(st.lists(st.tuples(numbers, st.integers(1, 2**32 - 1)), min_size=1, max_size=20))
def test_numbers_below_bounds_are_exact(drawn: list[tuple[int, int]]) -> None:
    values, bounds = zip(*drawn, strict=True)
    found = below_each(np.array(values, dtype=np.uint64), np.array(bounds))
    assert found.tolist() == [below(word, bound) for word, bound in drawn]
