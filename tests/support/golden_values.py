"""The reference implementation's outputs, and the formulas of the weights and inputs that they belong to."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from taehv.model.taehv import TAEHV
from taehv.model.variants import VARIANTS

GOLDEN = Path(__file__).parents[1] / "golden"
DESCRIPTIONS: dict[str, dict[str, Any]] = json.loads((GOLDEN / "variants.json").read_text())
CASES = [(name, case) for name, description in DESCRIPTIONS.items() for case in description["cases"]]


def golden_model(name: str) -> TAEHV:
    """The variant at its published size with the formula's weights."""
    model = TAEHV(VARIANTS[name]).eval()
    model.load_state_dict(_formula_weights(DESCRIPTIONS[name]["state_dict"]), strict=True)
    return model


def golden_case(name: str, case: str) -> tuple[Tensor, Tensor, Tensor]:
    """Input frames, and the reference's latents and decoded frames, which are clamped to [0, 1]."""
    golden = load_file(GOLDEN / f"{name}.safetensors")
    frames = _formula_frames(DESCRIPTIONS[name]["cases"][case]["input"])
    return frames, golden[f"latent_{case}"], golden[f"decoded_{case}"]


def _formula_weights(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    weights = {}
    for i, key in enumerate(sorted(shapes)):
        shape = shapes[key]
        count = math.prod(shape)
        fan = max(1.0, count / shape[0])
        values = torch.sin(0.7368 * torch.arange(count, dtype=torch.float64) + 1.618 * i) * 1.2 / math.sqrt(fan)
        weights[key] = values.reshape(shape).float()
    weights["decoder.22.weight"] *= 6.0
    weights["decoder.22.bias"].fill_(0.5)
    return weights


def _formula_frames(shape: list[int]) -> Tensor:
    g = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
    return (0.5 + 0.5 * torch.sin(0.0131 * g + 3 * torch.cos(0.00071 * g))).float()
