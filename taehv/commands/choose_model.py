"""Which model a subcommand works with."""

from __future__ import annotations

from pathlib import Path

import torch

from taehv.model.checkpoints import load_checkpoint, load_model
from taehv.model.formulations import RECIPES
from taehv.model.fused_inference import FoldedTAEHV
from taehv.model.taehv import TAEHV
from taehv.model.variants import VARIANTS, Variant
from taehv.runtime.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ModelChoiceError(UserError):
    """A model, variant or device that is not there."""


def open_model(path: Path, variant: str | None) -> TAEHV:
    """A model folder (as training writes it) or a checkpoint file.

    Raises:
        UserError: it cannot be read, is of another variant, or its variant cannot be told.
    """
    chosen = None if variant is None else named_variant(variant)
    if not path.exists():
        raise ModelChoiceError(f"there is no model at {path}: --model names a trained model's folder or a checkpoint")
    if not path.is_dir():
        return load_checkpoint(path, chosen)
    model, _ = load_model(path)
    if chosen is not None and chosen != model.variant:
        raise ModelChoiceError(f"the model in {path} is {model.variant.name}, not {chosen.name}")
    return model


def open_fast_model(path: Path, variant: str | None, device: str, dtype: str) -> FoldedTAEHV:
    """As ``open_model``, folded for a device and a number type.

    Raises:
        UserError: as ``open_model``, or the device is not there.
    """
    chosen = choose_device(device)
    return FoldedTAEHV(open_model(path, variant).to(chosen)).to(DTYPES[dtype])


def choose_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in RECIPES:
            raise ModelChoiceError(f"--device must be auto or one of {', '.join(RECIPES)}, got {name}")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise ModelChoiceError(f"the device {name} cannot be used: {reason}") from error
    return device


def named_variant(name: str) -> Variant:
    """The variant of that name."""
    if name not in VARIANTS:
        raise ModelChoiceError(f"the variant must be one of {', '.join(VARIANTS)}, got {name}")
    return VARIANTS[name]
