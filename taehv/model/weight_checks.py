"""What a file of weights must hold before any of it is used: ordinary tensors of finite floating-point numbers.

One check for published checkpoints, model folders, training checkpoints and teachers. A network computes with integers
or NaN without an error, and what comes out looks like a bad model.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from taehv.runtime.errors import UserError

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)
_NAMED = 5
"""So many tensors are named in an error; a damaged file has the same problem in all of them."""


def check_weights(weights: Mapping[str, Tensor], what: str, error: type[UserError] = UserError) -> None:
    """Refuse weights that are no weights.

    Args:
        weights: tensors by name.
        what: names them in the error.
        error: the class of the error.

    Raises:
        UserError: of that class: tensors are sparse, quantised, without data, or of another type than floating point,
            or hold NaN or infinity. The first ones are named.
    """
    problems = [(name, problem) for name, tensor in weights.items() if (problem := _problem(tensor))]
    if problems:
        listed = "".join(f"\n  {name}: {problem}" for name, problem in problems[:_NAMED])
        more = f"\n  and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise error(f"{what} holds tensors that are no usable weights; get the file again:{listed}{more}")


def check_layout(weights: Mapping[str, Tensor], what: str, error: type[UserError] = UserError) -> None:
    """The part of ``check_weights`` that reads no number, so that it costs nothing whatever a tensor claims to be."""
    for name, tensor in weights.items():
        if problem := _layout_problem(tensor):
            raise error(f"{what} holds a tensor that is no usable weight: {name}: {problem}")


def claimed_bytes(weights: Mapping[str, Tensor]) -> int:
    """Memory that the tensors take once each has its own: views that repeat themselves are small in a file."""
    return sum(tensor.numel() * tensor.element_size() for tensor in weights.values())


def _problem(tensor: Tensor) -> str | None:
    if problem := _layout_problem(tensor):
        return problem
    values = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # isfinite does not know 8-bit numbers
    wrong = int((~torch.isfinite(values)).sum())
    return f"{wrong:,} of {tensor.numel():,} numbers are NaN or infinite" if wrong else None


def _layout_problem(tensor: Tensor) -> str | None:
    if tensor.layout != torch.strided:
        return f"it is stored as {str(tensor.layout).removeprefix('torch.')}"
    if tensor.is_meta:
        return "it has a shape and no numbers (meta)"
    if tensor.is_quantized or tensor.dtype not in FLOATS:
        return f"its numbers are {str(tensor.dtype).removeprefix('torch.')}, weights are floating-point numbers"
    return "it is a negated view" if tensor.is_neg() else None
