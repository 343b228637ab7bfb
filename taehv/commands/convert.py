"""``taehv convert``: a checkpoint in the other format, keys untouched."""

from __future__ import annotations

from pathlib import Path

from taehv.commands.choose_model import named_variant
from taehv.model.checkpoints import find_candidates, model_of, read_state_dict, write_state_dict


def convert(source: Path, target: Path, variant: str | None) -> list[str]:
    """Write ``source``'s tensors to ``target``; returns the names of the variants that they fit.

    Raises:
        UserError: a file cannot be read or written, or the weights fit no variant, or not the given one.
    """
    weights = read_state_dict(source)
    if variant is None:
        names = [candidate.name for candidate in find_candidates(weights, str(source))]
    else:
        model_of(weights, named_variant(variant), str(source))
        names = [variant]
    write_state_dict(target, weights)
    return names
