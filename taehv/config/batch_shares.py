"""How a step's slots are shared out. A slot is one of the ``batch.global`` clips of an optimizer step.

The gradient is the sum over all slots divided by ``batch.global``, whoever computes which slot, in whatever
micro-batches: any number of processes up to ``batch.global`` does the same mathematics.
"""

from __future__ import annotations

from collections.abc import Sequence

from taehv.runtime.errors import ConfigError, Problem


def slots_of_rank(global_batch: int, world_size: int, rank: int) -> range:
    """The slots that one process computes: contiguous, as even as possible.

    Raises:
        ConfigError: there are more processes than slots, so that some would have nothing to do.
    """
    if world_size > global_batch:
        message = f"must be >= the number of processes ({world_size}), got {global_batch}"
        raise ConfigError("params", [Problem("batch.global", message)])
    return range(rank * global_batch // world_size, (rank + 1) * global_batch // world_size)


def micro_batches(slots: Sequence[int], per_device: int) -> list[Sequence[int]]:
    """The slots in groups of at most ``per_device``, in order."""
    return [slots[start : start + per_device] for start in range(0, len(slots), per_device)]
