"""The adapter has the interface of diffusers' own autoencoders and works in a real pipeline."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from taehv.model.diffusers_adapter import CertainDistribution, DiffusersVae
from taehv.model.fused_inference import FoldedTAEHV
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS

diffusers: Any = importlib.import_module("diffusers")  # its classes are not typed
TEACHERS = sorted({variant.teacher for variant in VARIANTS.values() if variant.teacher.startswith("Autoencoder")})


def adapter(name: str, chunk: int | None = None) -> DiffusersVae:
    return DiffusersVae(FoldedTAEHV(create_model(VARIANTS[name], 1 / 16, "torch_default", seed=0)), chunk)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_calls_for_diffusers_classes_fit_the_adapter(teacher: str) -> None:
    real = getattr(diffusers, teacher)
    for method, first in (("encode", "x"), ("decode", "z")):
        theirs = inspect.signature(getattr(real, method)).parameters
        ours = inspect.signature(getattr(DiffusersVae, method)).parameters
        assert list(theirs)[1] == list(ours)[1] == first
        assert {"return_dict", *(name for name in theirs if name == "temb")} <= set(ours)
        assert ours["return_dict"].default is theirs["return_dict"].default is True


@pytest.mark.parametrize("name", VARIANTS)
def test_config_says_what_the_teachers_config_says(name: str) -> None:
    vae, variant = adapter(name), VARIANTS[name]
    if not variant.teacher.startswith("Autoencoder"):
        return
    accepted = inspect.signature(getattr(diffusers, variant.teacher).__init__).parameters
    shared = {field for field in vars(vae.config) if field in accepted}
    assert shared & {"z_dim", "latent_channels", "scaling_factor", "latents_mean"}
    assert 2 ** (len(vae.config.block_out_channels) - 1) == vae.spatial_compression_ratio == variant.spatial_downscale
    assert len(vae.config.latents_mean) == len(vae.config.latents_std) == variant.latent_channels


def test_the_distribution_answers_as_diffusers_own() -> None:
    latents = torch.randn(1, 16, 2, 3, 3)
    ours, theirs = CertainDistribution(latents), DiagonalGaussianDistribution(torch.cat([latents, latents * 0 - 99], 1))
    torch.testing.assert_close(ours.sample(), theirs.sample(), rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.mode(), theirs.mode())
    torch.testing.assert_close(ours.mean, theirs.mean)


@pytest.mark.parametrize("chunk", [None, 1])
def test_frames_are_ncthw_in_minus_one_to_one(chunk: int | None) -> None:
    vae = adapter("wan2_1", chunk)
    video = torch.rand(1, 3, 9, 16, 24) * 2 - 1
    encoded: Any = vae.encode(video)
    latents = encoded.latent_dist.sample()
    assert latents.shape == (1, 16, 3, 2, 3)
    wanted = vae.model.encode(video.transpose(1, 2) / 2 + 0.5).transpose(1, 2)
    torch.testing.assert_close(latents, wanted, rtol=0, atol=1e-5)
    decoded: Any = vae.decode(latents)
    assert decoded.sample.shape == (1, 3, 9, 16, 24)
    assert decoded.sample.min() >= -1 and decoded.sample.max() <= 1
    assert torch.equal(vae.decode(latents, return_dict=False)[0], decoded.sample)  # type: ignore[index]


def test_a_real_wan_pipeline_runs_with_it() -> None:
    torch.manual_seed(0)
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=8, freq_dim=16, ffn_dim=16, num_layers=1, rope_max_seq_len=32,
    )  # fmt: skip
    vae = adapter("wan2_1")
    pipeline = diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    prompt = torch.randn(1, 4, 8)
    arguments = {
        "prompt_embeds": prompt, "negative_prompt_embeds": prompt, "height": 16, "width": 16, "num_frames": 9,
        "num_inference_steps": 1,
    }  # fmt: skip
    latents = pipeline(**arguments, output_type="latent", generator=torch.manual_seed(1)).frames
    frames = pipeline(**arguments, output_type="pt", generator=torch.manual_seed(1)).frames
    assert frames.shape == (1, 9, 3, 16, 16)
    torch.testing.assert_close(frames, vae.model.decode(latents.transpose(1, 2)).clamp(0, 1), rtol=0, atol=1e-5)
