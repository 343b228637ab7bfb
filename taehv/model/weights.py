"""Model folders: ``model.safetensors`` with the published keys, and ``model_info.json`` that says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from taehv.errors import UserError
from taehv.model.taehv import TAEHV
from taehv.model.variants import LARGEST_WIDTH, VARIANTS


class ModelError(UserError):
    """A model folder that cannot be used."""


def load_model(folder: Path) -> tuple[TAEHV, dict[str, Any]]:
    """The model in ``folder``, in evaluation mode on the CPU, and its info.

    Raises:
        ModelError: a file is missing or damaged, or the weights do not fit the variant; keys are listed.
    """
    try:
        info = json.loads((folder / "model_info.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
        variant, width = VARIANTS[info["variant"]], float(info["width"])
        if not 0 < width <= LARGEST_WIDTH:
            raise ValueError(f"the width must be above 0 and at most {LARGEST_WIDTH:g}, got {width}")
        model = TAEHV(variant, width)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise ModelError(f"no usable model in {folder}: {type(error).__name__}: {error}") from error
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ModelError(
            f"the weights in {folder} do not fit {variant.name} at width {model.width}: {error}"
        ) from error
    return model.eval(), info
