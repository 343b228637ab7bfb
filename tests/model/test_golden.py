"""The model computes what the published reference computes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from taehv.model.taehv import TAEHV
from taehv.model.variants import VARIANTS

GOLDEN = Path(__file__).parent.parent / "golden"
DESCRIPTIONS: dict[str, dict[str, Any]] = json.loads((GOLDEN / "variants.json").read_text())
CASES = [(name, case) for name, description in DESCRIPTIONS.items() for case in description["cases"]]


def formula_weights(shapes: dict[str, list[int]], last_layer: str) -> dict[str, Tensor]:
    weights = {}
    for i, key in enumerate(sorted(shapes)):
        shape = shapes[key]
        count = math.prod(shape)
        fan = max(1.0, count / shape[0])
        values = torch.sin(0.7368 * torch.arange(count, dtype=torch.float64) + 1.618 * i) * 1.2 / math.sqrt(fan)
        weights[key] = values.reshape(shape).float()
    weights[f"{last_layer}.weight"] *= 6.0
    weights[f"{last_layer}.bias"].fill_(0.5)
    return weights


def formula_frames(shape: list[int]) -> Tensor:
    g = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
    return (0.5 + 0.5 * torch.sin(0.0131 * g + 3 * torch.cos(0.00071 * g))).float()


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_state_dict_has_exactly_the_published_keys_and_shapes(name: str) -> None:
    ours = {key: list(value.shape) for key, value in TAEHV(VARIANTS[name]).state_dict().items()}
    assert ours == DESCRIPTIONS[name]["state_dict"]


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_parameter_count_is_the_published_one(name: str) -> None:
    assert sum(p.numel() for p in TAEHV(VARIANTS[name]).parameters()) == DESCRIPTIONS[name]["parameters"]


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_variant_descriptions_agree_with_the_reference(name: str) -> None:
    variant, reference = VARIANTS[name], DESCRIPTIONS[name]
    assert variant.patch_size == reference["patch_size"]
    assert variant.latent_channels == reference["latent_channels"]
    assert (variant.t_downscale, variant.t_upscale) == (reference["t_downscale"], reference["t_upscale"])
    for case in reference["cases"].values():
        latent_frames = variant.latent_frames(case["input"][1])
        assert latent_frames == case["latent"][1]
        assert variant.decoded_frames(latent_frames) == case["decoded"][1]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_outputs_match_the_golden_values(name: str, case: str) -> None:
    description = DESCRIPTIONS[name]
    model = TAEHV(VARIANTS[name]).eval()
    model.load_state_dict(formula_weights(description["state_dict"], "decoder.22"), strict=True)
    golden = load_file(GOLDEN / f"{name}.safetensors")
    with torch.inference_mode():
        latents = model.encode(formula_frames(description["cases"][case]["input"]))
        decoded = model.decode(latents).clamp(0, 1)
    torch.testing.assert_close(latents, golden[f"latent_{case}"], rtol=0, atol=1e-5)
    torch.testing.assert_close(decoded, golden[f"decoded_{case}"], rtol=0, atol=1e-5)
