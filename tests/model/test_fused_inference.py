"""The folded paths give the plain model's numbers, whatever the device's recipe."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden_values import golden_case, golden_model
from torch import nn
from torch.nn import functional

from taehv.model import fused_weights
from taehv.model.formulations import RECIPES, Recipe
from taehv.model.fused_inference import FoldedTAEHV
from taehv.model.init import create_model
from taehv.model.streaming import StreamingDecoder, StreamingEncoder
from taehv.model.taehv import TAEHV
from taehv.model.variants import VARIANTS

DISTINCT_WAYS = [RECIPES["cpu"], RECIPES["cuda"]]


@functools.cache
def narrow(name: str) -> TAEHV:
    return create_model(VARIANTS[name], 1 / 16, "torch_default", seed=0).eval()


@functools.cache
def folded(name: str, recipe: Recipe) -> FoldedTAEHV:
    return FoldedTAEHV(narrow(name), recipe)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(VARIANTS)),
    recipe=st.sampled_from(DISTINCT_WAYS),
    frames=st.integers(1, 21),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    clips=st.integers(1, 3),
    chunk=st.one_of(st.none(), st.integers(1, 9)),
)
def test_folded_encode_and_decode_give_the_plain_numbers(
    name: str, recipe: Recipe, frames: int, rows: int, columns: int, clips: int, chunk: int | None
) -> None:
    plain, fast = narrow(name), folded(name, recipe)
    size = plain.variant.spatial_downscale
    video = torch.rand(clips, frames, 3, rows * size, columns * size)
    with torch.inference_mode():
        latents = plain.encode(video)
        decoded = plain.decode(latents)
    torch.testing.assert_close(fast.encode(video, chunk=chunk), latents, rtol=0, atol=1e-5)
    torch.testing.assert_close(fast.decode(latents, chunk=chunk), decoded, rtol=0, atol=1e-5)


@pytest.mark.parametrize("recipe", DISTINCT_WAYS)
@pytest.mark.parametrize("name", VARIANTS)
def test_folding_at_the_published_width_matches_the_golden_values(name: str, recipe: Recipe) -> None:
    frames, golden_latents, golden_decoded = golden_case(name, "t17" if name == "minimax_h3" else "t9")
    fast = FoldedTAEHV(golden_model(name), recipe)
    latents = fast.encode(frames)
    torch.testing.assert_close(latents, golden_latents, rtol=0, atol=1e-5)
    torch.testing.assert_close(fast.decode(latents).clamp(0, 1), golden_decoded, rtol=0, atol=1e-5)


@pytest.mark.parametrize("recipe", DISTINCT_WAYS)
@pytest.mark.parametrize("name", ["hunyuan_video", "wan2_2_super", "minimax_h3"])
def test_a_folded_stream_gives_the_plain_numbers(name: str, recipe: Recipe) -> None:
    plain, fast = narrow(name), folded(name, recipe)
    size = plain.variant.spatial_downscale
    video = torch.rand(1, 19, 3, size, 2 * size)
    with torch.inference_mode():
        latents = plain.encode(video)
        decoded = plain.decode(latents)
    encoder, decoder = StreamingEncoder(fast), StreamingDecoder(fast)
    ours = torch.cat([*(encoder.push(video[:, i : i + 1]) for i in range(19)), encoder.flush()], 1)
    torch.testing.assert_close(ours, latents, rtol=0, atol=1e-5)
    pieces = [decoder.push(latents[:, i : i + 1]) for i in range(latents.shape[1])]
    torch.testing.assert_close(torch.cat([*pieces, decoder.flush()], 1), decoded, rtol=0, atol=1e-5)


@pytest.mark.parametrize("recipe", DISTINCT_WAYS)
@pytest.mark.parametrize("name", ["hunyuan_video", "hunyuan_video_1_5", "wan2_2_super"])
def test_bfloat16_stays_within_2e_2_of_the_plain_model(name: str, recipe: Recipe) -> None:
    model = create_model(VARIANTS[name], 1 / 4, "torch_default", seed=0).eval()
    size = model.variant.spatial_downscale
    video = torch.rand(1, 8, 3, 2 * size, 2 * size)
    fast = FoldedTAEHV(model, recipe).bfloat16()
    with torch.inference_mode():
        latents = model.encode(video)
        decoded = model.decode(latents)
    torch.testing.assert_close(fast.encode(video.bfloat16()).float(), latents, rtol=0, atol=2e-2)
    torch.testing.assert_close(fast.decode(latents.bfloat16()).float(), decoded, rtol=0, atol=2e-2)


TIME_OPTIONS = [(False, a, b) for a, b in itertools.product([False, True], repeat=2)]


@pytest.mark.parametrize("recipe", DISTINCT_WAYS)
@pytest.mark.parametrize("space", list(itertools.product([False, True], repeat=3)))
def test_cheaper_previews_fold_too(space: tuple[bool, bool, bool], recipe: Recipe) -> None:
    for time in TIME_OPTIONS:
        variant = VARIANTS["hunyuan_video"].preview(time, space)
        model = create_model(variant, 1 / 16, "torch_default", seed=0).eval()
        latents = torch.randn(2, 3, 16, 2, 3)
        with torch.inference_mode():
            decoded = model.decode(latents)
        torch.testing.assert_close(FoldedTAEHV(model, recipe).decode(latents), decoded, rtol=0, atol=1e-5)


def test_full_size_frames_made_a_few_at_a_time_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, latents = folded("hunyuan_video", RECIPES["cuda"]), torch.randn(1, 4, 16, 3, 2)
    whole = model.decode(latents)
    monkeypatch.setattr("taehv.model.fused_inference.CELL_BYTES", 3 * 4 * 2 * 4 * 12 * 8 * 4)
    torch.testing.assert_close(model.decode(latents), whole, rtol=0, atol=1e-6)


def test_convolving_the_cells_of_a_grown_image_is_convolving_the_image() -> None:
    kernels, last = torch.randn(2, 5, 4, 3, 3).double(), torch.randn(3, 5, 3, 3).double()
    frames = torch.randn(3, 4, 3, 2).double()
    grown = functional.conv2d(functional.interpolate(frames, scale_factor=2), kernels.flatten(0, 1), padding=1)
    wanted = functional.conv2d(grown.unflatten(1, (2, 5)).flatten(0, 1), last, padding=1)
    phases = functional.conv2d(frames, fused_weights.upsample_as_phases(kernels), padding=1).unflatten(1, (2, 2, 2, 5))
    for axis, beyond in ((2, -1), (2, 0), (3, -1), (3, 0)):  # even rows end below the image, odd ones begin above
        phases.select(axis, 0 if beyond else 1).select(axis + 2, beyond).zero_()
    blocks = functional.conv2d(
        phases.flatten(1, 4), fused_weights.block_diagonal(fused_weights.convolve_phases(last), 2)
    )
    ours = functional.pixel_shuffle(blocks, 2).unflatten(1, (2, 3)).flatten(0, 1)
    torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-10)


def test_folding_leaves_the_plain_model_as_it_was() -> None:
    model = create_model(VARIANTS["hunyuan_video"], 1 / 16, "torch_default", seed=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fast = FoldedTAEHV(model)
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(tensor.is_contiguous() for tensor in model.state_dict().values())
    assert all(parameter.requires_grad for parameter in model.parameters())


@given(
    channels=st.integers(1, 3), outputs=st.integers(1, 3), stride=st.integers(1, 2), height=st.integers(1, 4),
    width=st.integers(1, 4),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_growing_upsampling_and_convolving_fold_exactly_in_float64(
    channels: int, outputs: int, stride: int, height: int, width: int
) -> None:
    frames = torch.randn(3, channels, height, width, dtype=torch.float64)
    grow = nn.Conv2d(channels, stride * channels, 1, bias=False).double()
    conv = nn.Conv2d(channels, outputs, 3, padding=1, bias=False).double()
    grown = grow(functional.interpolate(frames, scale_factor=2)).reshape(-1, channels, 2 * height, 2 * width)
    kernel = fused_weights.upsample_as_transposed(fused_weights.grow_then_convolve(grow.weight, conv.weight))
    volume = functional.conv_transpose3d(frames.transpose(0, 1)[None], kernel, stride=(stride, 2, 2), padding=(0, 1, 1))
    torch.testing.assert_close(volume[0].transpose(0, 1), conv(grown), rtol=1e-10, atol=1e-10)


def test_gradients_flow_through_folded_weights() -> None:
    pool, weight = torch.randn(3, 6, 1, 1, requires_grad=True), torch.randn(2, 3, 3, 3, requires_grad=True)
    fused_weights.pool_then_convolve(pool, weight).sum().backward()
    assert pool.grad is not None and weight.grad is not None
    grow = torch.randn(6, 3, 1, 1, requires_grad=True)
    fused_weights.upsample_as_planes(fused_weights.grow_then_convolve(grow, weight)).sum().backward()
    assert grow.grad is not None
