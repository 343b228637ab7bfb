"""What MLflow takes in one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

METRIC_BATCH = 1000
PARAM_BATCH = 100
"""Of params, and of tags."""

Item = TypeVar("Item")


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """``size`` items at a time; the last batch may be smaller. No items, no batch."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
