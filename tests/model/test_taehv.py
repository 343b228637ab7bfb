"""Shapes, alignment and causality of the plain model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taehv.model.init import create_model
from taehv.model.variants import VARIANTS


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(sorted(VARIANTS)),
    frames=st.integers(1, 14),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    clips=st.integers(1, 2),
)
def test_shapes_follow_the_variants_description(name: str, frames: int, rows: int, columns: int, clips: int) -> None:
    variant = VARIANTS[name]
    model = create_model(variant, 1 / 16, "torch_default", seed=0)
    height, width = rows * variant.spatial_downscale, columns * variant.spatial_downscale
    with torch.inference_mode():
        latents = model.encode(torch.rand(clips, frames, 3, height, width))
        decoded = model.decode(latents)
    latent_frames = variant.latent_frames(frames)
    assert latents.shape == (clips, latent_frames, variant.latent_channels, rows, columns)
    assert decoded.shape == (clips, variant.decoded_frames(latent_frames), 3, height, width)
    assert variant.spatial_upscale == variant.spatial_downscale


def test_twelve_frames_give_three_latents_and_nine_frames() -> None:
    variant = VARIANTS["hunyuan_video"]
    assert variant.latent_frames(12) == 3
    assert variant.decoded_frames(3) == 9


def test_padding_repeats_the_last_frame() -> None:
    model = create_model(VARIANTS["hunyuan_video"], 1 / 16, "torch_default", seed=0)
    frames = torch.rand(1, 6, 3, 16, 16)
    padded = torch.cat([frames, frames[:, -1:], frames[:, -1:]], dim=1)
    with torch.inference_mode():
        assert torch.equal(model.encode(frames), model.encode(padded))


def test_clips_of_a_batch_do_not_see_each_other() -> None:
    model = create_model(VARIANTS["hunyuan_video"], 1 / 16, "torch_default", seed=0)
    frames = torch.rand(3, 8, 3, 16, 16)
    with torch.inference_mode():
        together = model.decode(model.encode(frames))
        alone = torch.cat([model.decode(model.encode(clip[None])) for clip in frames])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_later_frames_do_not_change_earlier_output() -> None:
    model = create_model(VARIANTS["hunyuan_video"], 1 / 16, "torch_default", seed=0)
    frames = torch.rand(1, 12, 3, 16, 16)
    changed = frames.clone()
    changed[:, 8:] = 0
    with torch.inference_mode():
        first, second = model.encode(frames), model.encode(changed)
        assert torch.equal(first[:, :2], second[:, :2])
        assert torch.equal(model.decode(first)[:, :5], model.decode(second)[:, :5])


@pytest.mark.parametrize(
    "shape", [(1, 8, 3, 12, 16), (1, 8, 3, 16, 12), (1, 8, 4, 16, 16), (8, 3, 16, 16), (1, 0, 3, 16, 16)]
)
def test_frames_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    model = create_model(VARIANTS["hunyuan_video"], 1 / 16, "torch_default", seed=0)
    with pytest.raises(ValueError, match=r"expected|multiples"):
        model.encode(torch.zeros(shape))
