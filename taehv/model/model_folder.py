"""Model folders: ``model.safetensors`` with the published keys, and ``model_info.json`` that says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from taehv.model.checkpoints import check_weights
from taehv.model.taehv import TAEHV
from taehv.model.variants import LARGEST_WIDTH, VARIANTS
from taehv.runtime.errors import UserError
from taehv.runtime.user_files import regular_file


class ModelError(UserError):
    """A model folder that cannot be used."""


def load_model(folder: Path) -> tuple[TAEHV, dict[str, Any]]:
    """The model in ``folder``, in evaluation mode on the CPU, and its info.

    Raises:
        ModelError: a file is missing or damaged, the weights do not fit the variant (keys are listed), or they are no
            finite floating-point numbers.
    """
    info_file, weights_file = folder / "model_info.json", folder / "model.safetensors"
    try:
        info = json.loads(regular_file(info_file).read_text(encoding="utf-8"))
        weights = load_file(regular_file(weights_file))
        variant, width = VARIANTS[info["variant"]], float(info["width"])
        if not 0 < width <= LARGEST_WIDTH:
            raise ValueError(f"the width must be above 0 and at most {LARGEST_WIDTH:g}, got {width}")
        model = TAEHV(variant, width)
    except UserError as error:
        raise ModelError(f"no usable model in {folder}: {error}") from error
    except (
        OSError,
        ValueError,
        LookupError,
        ArithmeticError,
        TypeError,
        AttributeError,
        RecursionError,
        SafetensorError,
    ) as error:
        raise ModelError(f"no usable model in {folder}: {type(error).__name__}: {error}") from error
    check_weights(weights, str(weights_file), ModelError)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ModelError(
            f"the weights in {folder} do not fit {variant.name} at width {model.width}: {error}"
        ) from error
    return model.eval(), info
