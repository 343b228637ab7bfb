"""``taehv convert``: a checkpoint in the other format, keys untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[Path, typer.Argument(parser=Path, metavar="IN", help="The checkpoint.")],
    target: Annotated[
        Path, typer.Argument(parser=Path, metavar="OUT", help="The file to write; its suffix says which kind.")
    ],
    variant: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Check the weights against this variant, not against all."),
    ] = None,
) -> int:
    """Write a checkpoint as .safetensors or .pth, keys untouched.

    It prints the variants that the weights fit.

    \b
    taehv convert taew2_1.pth taew2_1.safetensors
    taehv convert taew2_1.safetensors taew2_1.pth --variant wan2_1
    """
    from taehv.commands.choose_model import named_variant
    from taehv.model.checkpoints import find_candidates, model_of, read_state_dict, write_state_dict

    weights = read_state_dict(source)
    if variant is None:
        names = [candidate.name for candidate in find_candidates(weights, str(source))]
    else:
        model_of(weights, named_variant(variant), str(source))
        names = [variant]
    write_state_dict(target, weights)
    print(f"{target}: weights of {' or '.join(names)}")
    return 0
