"""Choosing some of many, evenly: whole-number arithmetic, the same on every machine."""

from __future__ import annotations

# The golden ratio's fraction in 32-bit fixed point: its multiples, modulo one, stay evenly spread at any count.
_GOLDEN = 2654435769
_ONE = 1 << 32


def thin(groups: int, positions: int, count: int) -> list[tuple[int, int]]:
    """At most ``count`` of the groups x positions pairs, spread evenly over the groups and over their positions.

    Each group gets the same number of positions up to one. Within a group they are equally far apart, and from group
    to group their offset moves on by the golden ratio: a plain every-k-th choice would, for an unlucky k, always take
    the same corner of the image.
    """
    count = min(count, groups * positions)
    chosen = []
    for group in range(groups):
        quota = (group + 1) * count // groups - group * count // groups
        offset = group * _GOLDEN % _ONE
        chosen += [(group, (j * _ONE + offset) * positions // (quota * _ONE)) for j in range(quota)]
    return chosen
