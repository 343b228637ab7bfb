"""Seraena: the student is pulled towards its own output, corrected by a discriminator (github.com/madebyollin/seraena).

A discriminator learns to tell real groups of frames from decoded ones, given the latents they belong to. Its gradient
says in which direction a decoded group has to change to be scored as the real one is; scaled to unit standard
deviation, that direction is the correction, and the loss is mean (y - (y + correction))^2 with the target held fixed.

Everything is per sample (group norm, one scale per group of frames): how a batch is shared out changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from taehv.config.params import Seraena
from taehv.model.formulations import TRAINING
from taehv.model.variants import Variant

PATCH = 8
"""Pixels, along each side, that one score stands for."""


def group_frames(frames_ntchw: Tensor, size: int) -> Tensor:
    """``size`` successive frames side by side in channels: (N, T, C, H, W) to (N, T / size, size * C, H, W)."""
    return frames_ntchw.unflatten(1, (-1, size)).flatten(2, 3)


def ungroup_frames(groups: Tensor, size: int) -> Tensor:
    """The inverse of ``group_frames``."""
    return groups.unflatten(2, (size, -1)).flatten(1, 2)


def latents_per_group(latents_ntchw: Tensor, variant: Variant, groups: int, size: int) -> Tensor:
    """The condition of each group: the latents of its frames, averaged over time.

    (N, T, C, h, w) to (N, groups, C, h, w). Decoded frame j, before the trim j + trim, is made from latent
    (j + trim) // t_upscale.
    """
    trim = variant.frames_to_trim(latents_ntchw.shape[1])
    latent_of_frame = [latents_ntchw[:, (frame + trim) // variant.t_upscale] for frame in range(groups * size)]
    return torch.stack(latent_of_frame, dim=1).unflatten(1, (groups, size)).mean(dim=2)


class Discriminator(nn.Module):
    """Scores patches of a group of frames, given its latents, from every layer: near 1 for decoded, -1 for real."""

    def __init__(self, frame_channels: int, latent_channels: int, width: int) -> None:
        super().__init__()
        sizes = [width, 2 * width, 4 * width, 8 * width, 8 * width, 8 * width]
        strides = [1, 2, 2, 2, 1, 1]
        inputs = [frame_channels + latent_channels, *sizes[:-1]]
        self.blocks = nn.ModuleList(map(_block, inputs, sizes, strides))
        self.scores = nn.ModuleList(nn.Conv2d(size, 1, 1, bias=False) for size in sizes)

    def forward(self, groups: Tensor, latents: Tensor) -> Tensor:
        """(N, size * 3, H, W) in [0, 1] and (N, C, h, w) to scores (N, layers, H / 8, W / 8)."""
        if TRAINING[groups.device.type].discriminator == "pooled first":
            return self.pooled_first(groups, latents)
        height, width = groups.shape[-2:]
        patches = height // PATCH, width // PATCH
        hidden = torch.cat([groups * 2 - 1, functional.interpolate(latents, size=(height, width))], dim=1)
        scores = []
        for block, score in zip(self.blocks, self.scores, strict=True):
            hidden = block(hidden)
            scores.append(functional.adaptive_avg_pool2d(score(hidden), patches))
        return torch.cat(scores, dim=1)

    def pooled_first(self, groups: Tensor, latents: Tensor) -> Tensor:
        """The same scores with fewer passes over full-size images; H and W are multiples of ``PATCH``.

        A score is linear and averaging commutes with it, so images are averaged first: a convolution to one channel
        reads and, backwards, writes full-size images at a fraction of a GPU's speed. Tensor cores take channels by
        8, so the first layer's input is filled up with zeros.
        """
        height, width = groups.shape[-2:]
        condition = functional.interpolate(latents, size=(height, width))
        missing = -(groups.shape[1] + latents.shape[1]) % 8
        hidden = torch.cat(
            [groups * 2 - 1, condition, torch.zeros_like(groups[:, :1]).expand(-1, missing, -1, -1)], dim=1
        )
        scores = []
        for block, score in zip(self.blocks, self.scores, strict=True):
            assert isinstance(block, nn.Sequential)
            conv, norm, _ = block
            assert isinstance(conv, nn.Conv2d)
            weight = functional.pad(conv.weight, (0, 0, 0, 0, 0, hidden.shape[1] - conv.in_channels))
            assert isinstance(norm, nn.GroupNorm)
            hidden = functional.relu(
                normalised(functional.conv2d(hidden, weight, None, conv.stride, conv.padding), norm)
            )
            by_patch = hidden.unflatten(3, (width // PATCH, -1)).unflatten(2, (height // PATCH, -1))
            scores.append(score(by_patch.mean(dim=(3, 5))))
        return torch.cat(scores, dim=1)


def normalised(images: Tensor, norm: nn.GroupNorm) -> Tensor:
    """``norm``, of one group, with its sums taken row by row first: (N, C, H, W) to the same shape.

    A sum over a whole image keeps as few multiprocessors busy as there are images: at 480x720 it takes 3.3 ms on an
    H100 for 0.2 ms of reading. The same holds backwards, so means are spread over rows before they are used.
    """
    precise = images if images.dtype == torch.float64 else images.float()
    variances, means = torch.var_mean(precise, dim=(1, 3), correction=0)  # (N, H)
    mean = means.mean(dim=1, keepdim=True)
    variance = variances.mean(dim=1, keepdim=True) + (means - mean).square().mean(dim=1, keepdim=True)
    scale = (variance + norm.eps).rsqrt()
    by_row = [each.expand_as(means)[:, None, :, None] for each in (mean, scale)]
    weight, bias = norm.weight[:, None, None], norm.bias[:, None, None]
    return (precise - by_row[0]) * by_row[1] * weight + bias


def _block(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    kernel = 4 if stride == 2 else 3
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=1, bias=False),
        nn.GroupNorm(1, channels_out),
        nn.ReLU(),
    )


def lesson(discriminator: Discriminator, groups: Tensor, latents: Tensor, is_decoded: Tensor) -> Tensor:
    """The discriminator's loss, summed over groups: a scalar."""
    return discriminator_loss(discriminator(groups, latents), is_decoded).sum()


def discriminator_loss(scores: Tensor, is_decoded: Tensor) -> Tensor:
    """Mean squared distance of each sample's scores to 1 (decoded) or -1 (real): (N, ...) and (N,) bool to (N,)."""
    target = torch.where(is_decoded, 1.0, -1.0).to(scores.dtype)
    return (scores - target[:, None, None, None]).square().flatten(1).mean(dim=1)


def distance_of_scores(discriminator: Discriminator, decoded: Tensor, real: Tensor, latents: Tensor) -> Tensor:
    """Sum over groups of the mean squared distance of a decoded group's scores to its real one's, held fixed."""
    with torch.no_grad():
        wanted = discriminator(real, latents)
    return (discriminator(decoded, latents) - wanted).square().flatten(1).mean(dim=1).sum()


Distance = Callable[[Discriminator, Tensor, Tensor, Tensor], Tensor]
"""``distance_of_scores``, or what a compiler made of it."""


def correction(
    discriminator: Discriminator,
    decoded: Tensor,
    real: Tensor,
    latents: Tensor,
    distance: Distance = distance_of_scores,
) -> Tensor:
    """How decoded groups (N, C, H, W) should change to be scored as the real ones; unit standard deviation each.

    "Relativistic": it pulls the scores of a decoded group towards those of its real one, however well the
    discriminator does. The discriminator's own gradients stay as they are.
    """
    with torch.enable_grad():
        decoded = decoded.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(distance(discriminator, decoded, real, latents), decoded)
    spread = gradient.flatten(1).std(dim=1, correction=0)[:, None, None, None]
    return -gradient / (spread + torch.finfo(spread.dtype).tiny ** 0.5)


def seraena_per_clip(decoded_ntchw: Tensor, corrections_ntchw: Tensor) -> Tensor:
    """mean (y - stopgrad(y + correction))^2 of each clip: (N, T, 3, H, W) twice to (N,).

    Its value says little (the corrections have unit size); its gradient is what counts.
    """
    target = (decoded_ntchw + corrections_ntchw).detach()
    return (decoded_ntchw - target).square().flatten(1).mean(dim=1)


def ramp(params: Seraena, step: int) -> float:
    """The fraction of loss.seraena in force at update ``step``: 0 before the start, then growing to 1."""
    updates = step - params.start_step + 1
    return min(1.0, max(0.0, updates / (params.ramp_steps + 1)))
