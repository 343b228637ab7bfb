"""The discriminator judges groups of frames by the latents they belong to; corrections are per sample."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from taehv.losses.seraena import (
    Discriminator,
    correction,
    discriminator_loss,
    group_frames,
    latents_per_group,
    seraena_per_clip,
    ungroup_frames,
)
from taehv.model.variants import VARIANTS


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def discriminator() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(frame_channels=9, latent_channels=16, width=4)


def test_grouping_is_undone_by_ungrouping() -> None:
    frames = random(2, 9, 3, 8, 8)
    groups = group_frames(frames, 3)
    assert groups.shape == (2, 3, 9, 8, 8)
    assert torch.equal(groups[1, 2, 3:6], frames[1, 7])
    assert torch.equal(ungroup_frames(groups, 3), frames)


def test_latents_are_averaged_over_time_by_the_frames_they_make_never_over_channels() -> None:
    """Frame 0 is made from latent 0, frames 1-4 from latent 1, frames 5-8 from latent 2."""
    latents = torch.arange(3.0).reshape(1, 3, 1, 1, 1) + torch.arange(16.0).reshape(1, 1, 16, 1, 1) * 100
    conditions = latents_per_group(latents, VARIANTS["hunyuan_video"], groups=3, size=3)
    assert conditions.shape == (1, 3, 16, 1, 1)
    assert conditions[0, :, 0, 0, 0].tolist() == pytest.approx([(0 + 1 + 1) / 3, (1 + 1 + 2) / 3, 2.0])
    assert conditions[0, 2, :, 0, 0].tolist() == pytest.approx([2 + 100 * channel for channel in range(16)])


def test_every_layer_scores_patches_of_eight_pixels() -> None:
    assert discriminator()(random(2, 9, 32, 24), random(2, 16, 4, 3)).shape == (2, 6, 4, 3)


def test_the_condition_changes_the_scores() -> None:
    disc, groups = discriminator(), random(1, 9, 16, 16)
    assert not torch.equal(disc(groups, torch.zeros(1, 16, 2, 2)), disc(groups, torch.ones(1, 16, 2, 2)))


def test_a_samples_scores_do_not_depend_on_the_rest_of_the_batch() -> None:
    disc, groups, latents = discriminator(), random(3, 9, 16, 16), random(3, 16, 2, 2)
    torch.testing.assert_close(disc(groups, latents)[:1], disc(groups[:1], latents[:1]))


def test_corrections_have_unit_spread_per_sample_and_leave_the_discriminator_alone() -> None:
    disc = discriminator()
    decoded, real, latents = random(2, 9, 16, 16), random(2, 9, 16, 16, seed=1), random(2, 16, 2, 2)
    decoded[1] = 0.5 + 0.001 * decoded[1]
    found = correction(disc, decoded, real, latents)
    assert found.flatten(1).std(dim=1, correction=0).tolist() == pytest.approx([1.0, 1.0], rel=1e-3)
    assert all(parameter.grad is None for parameter in disc.parameters())
    torch.testing.assert_close(found[:1], correction(disc, decoded[:1], real[:1], latents[:1]), rtol=1e-3, atol=1e-4)


def test_a_step_along_the_correction_brings_the_scores_closer_to_the_real_ones() -> None:
    disc = discriminator().double()
    decoded, real, latents = (random(1, *shape).double() for shape in ((9, 16, 16), (9, 16, 16), (16, 2, 2)))
    real = 1 - real

    @torch.no_grad()
    def distance(groups: Tensor) -> float:
        return float((disc(groups, latents) - disc(real, latents)).square().mean())

    assert distance(decoded + 1e-3 * correction(disc, decoded, real, latents)) < distance(decoded)


def test_corrections_of_a_perfect_decoding_are_zero() -> None:
    groups, latents = random(1, 9, 16, 16), random(1, 16, 2, 2)
    assert correction(discriminator(), groups, groups, latents).abs().max() == 0


def test_the_gradient_of_the_loss_is_the_correction_and_the_target_is_held_fixed() -> None:
    decoded = random(1, 9, 3, 8, 8).requires_grad_()
    corrections = random(1, 9, 3, 8, 8, seed=1)
    seraena_per_clip(decoded, corrections).sum().backward()
    assert decoded.grad is not None
    torch.testing.assert_close(decoded.grad, -2 * corrections / corrections.numel())


def test_the_discriminator_is_taught_one_for_decoded_and_minus_one_for_real() -> None:
    scores = torch.stack([torch.ones(6, 2, 2), -torch.ones(6, 2, 2)])
    assert discriminator_loss(scores, torch.tensor([True, False])).tolist() == [0.0, 0.0]
    assert discriminator_loss(scores, torch.tensor([False, True])).tolist() == [4.0, 4.0]


def test_scores_of_images_that_were_averaged_first_are_the_same_and_so_are_the_gradients() -> None:
    disc = discriminator().double()
    groups, latents = random(2, 9, 32, 24).double().requires_grad_(), random(2, 16, 4, 3).double()
    found = []
    for way in (disc.forward, disc.pooled_first):
        scores = way(groups, latents)
        weights = [*disc.parameters(), groups]
        total = (scores * torch.linspace(-1, 1, scores.numel()).reshape(scores.shape)).sum()
        found.append([scores.detach(), *torch.autograd.grad(total, weights)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)
