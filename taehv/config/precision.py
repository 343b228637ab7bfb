"""Number formats that a scale can train in: a new one is a line of ``PRECISIONS``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Precision:
    """How weights are kept and computed with."""

    dtype: Literal["float32", "float64"]
    """Of weights, their average, optimizer state and frames; torch's name."""
    bytes: int
    """Of one such number."""
    autocast: Literal["no", "bf16"] = "no"
    """What convolutions compute in, by accelerate's name."""


PRECISIONS: Mapping[str, Precision] = {
    "fp32": Precision("float32", 4),
    "bf16": Precision("float32", 4, autocast="bf16"),
    "fp64": Precision("float64", 8),
}
"""By the name in params.yaml."""
