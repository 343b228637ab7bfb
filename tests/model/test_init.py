"""Initial weights depend on seed and architecture only, and start the network near an average pyramid."""

from __future__ import annotations

import pytest
import torch

from taehv.losses.metrics import psnr_per_clip
from taehv.model.blocks import TGrow
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS

VARIANT = VARIANTS["hunyuan_video"]


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before() -> None:
    first = create_model(VARIANT, 0.25, "averaging_identity", seed=7)
    torch.rand(1000)
    second = create_model(VARIANT, 0.25, "averaging_identity", seed=7)
    other = create_model(VARIANT, 0.25, "averaging_identity", seed=8)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_creating_a_model_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    create_model(VARIANT, 0.25, "averaging_identity", seed=7)
    assert torch.equal(torch.rand(3), expected)


def test_mem_blocks_start_as_identity_of_their_non_negative_input() -> None:
    model = create_model(VARIANT, 0.25, "averaging_identity", seed=7)
    features = torch.rand(6, 16, 4, 4)
    block = model.encoder[4]
    assert torch.equal(block(features, 2), features)


def test_a_constant_video_stays_constant_in_time_through_pool_and_grow() -> None:
    model = create_model(VARIANT, 0.25, "averaging_identity", seed=7)
    features = torch.rand(1, 16, 4, 4)
    pooled = model.encoder[2](features.repeat(4, 1, 1, 1))
    torch.testing.assert_close(pooled, features.repeat(2, 1, 1, 1))
    grow = model.decoder[13]
    assert isinstance(grow, TGrow)
    grown = grow(torch.rand(1, grow.conv.in_channels, 4, 4))
    assert torch.equal(grown[0], grown[1])


@pytest.mark.parametrize("seed", range(5))
def test_every_entry_channel_answers_to_plain_grey_and_to_latents_of_one_sign_or_the_other(seed: int) -> None:
    """With PyTorch's weights a third of the encoder's channels are zero for every natural image, and stay so."""
    model = create_model(VARIANT, 0.25, "averaging_identity", seed)
    grey = torch.full((1, 3, 8, 8), 0.5)
    entry_of_encoder, entry_of_decoder = model.encoder[0], model.decoder[1]
    assert (entry_of_encoder(grey)[0, :, 4, 4] > 0).all()
    latents = torch.eye(16)[:, :, None, None].expand(-1, -1, 8, 8)
    answers = torch.cat([entry_of_decoder(sign * latents)[:, :, 4, 4] for sign in (1.0, -1.0)])
    assert (answers.max(dim=0).values > 0.5).all(), "some channel hears no latent"
    assert (answers.max(dim=1).values > 0.5).all(), "some latent, or some sign of it, is heard by no channel"


def test_an_untrained_model_is_far_from_reconstruction() -> None:
    """A step-0 PSNR near the trained one would mean that something leaks data into the weights."""
    model = create_model(VARIANT, 0.25, "averaging_identity", seed=7)
    frames = torch.rand(1, 12, 3, 32, 32)
    with torch.inference_mode():
        assert psnr_per_clip(model.decode(model.encode(frames)), frames).item() < 20
