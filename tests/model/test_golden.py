"""The model computes what the published reference computes."""

from __future__ import annotations

import pytest
import torch
from support.golden_values import CASES, DESCRIPTIONS, golden_case, golden_model

from taehv.model.taehv import TAEHV
from taehv.model.variants import VARIANTS


def test_every_published_variant_is_here() -> None:
    assert set(VARIANTS) == set(DESCRIPTIONS)


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
    assert variant.decoder_kind == reference["arch"]
    assert list(variant.encoder_time_downscale) == reference["encoder_time_downscale"]
    assert list(variant.decoder_time_upscale) == reference["decoder_time_upscale"]
    assert (variant.t_downscale, variant.t_upscale) == (reference["t_downscale"], reference["t_upscale"])
    for case in reference["cases"].values():
        latent_frames = variant.latent_frames(case["input"][1])
        assert latent_frames == case["latent"][1]
        assert variant.decoded_frames(latent_frames) == case["decoded"][1]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_outputs_match_the_golden_values(name: str, case: str) -> None:
    frames, golden_latents, golden_decoded = golden_case(name, case)
    model = golden_model(name)
    with torch.inference_mode():
        latents = model.encode(frames)
        decoded = model.decode(latents).clamp(0, 1)
    torch.testing.assert_close(latents, golden_latents, rtol=0, atol=1e-5)
    torch.testing.assert_close(decoded, golden_decoded, rtol=0, atol=1e-5)
