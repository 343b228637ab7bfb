"""What MLflow takes in one call, and in which states a run has ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

METRIC_BATCH = 1000
PARAM_BATCH = 100
"""Of params, and of tags."""
ENDED = ("FINISHED", "FAILED", "KILLED")

Item = TypeVar("Item")


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """``size`` items at a time; the last batch may be smaller. No items, no batch."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
