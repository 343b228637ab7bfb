"""The same numbers, faster: a plain model with its layers folded together (``folding.py`` has the algebra).

What is done on which device is chosen in one place, ``RECIPES``; ``benchmarks/codec.py`` measures it. The plain model
stays the reference: ``tests/model/test_folded.py`` compares.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from taehv.model import folding
from taehv.model.autoencoder import VideoAutoencoder
from taehv.model.blocks import MemBlock, SuperMemBlock, TemporalBlock, TGrow, TPool, one_step_earlier
from taehv.model.clips import Memory
from taehv.model.taehv import TAEHV

Module = TypeVar("Module", bound=nn.Module)
Conv = TypeVar("Conv", nn.Conv2d, nn.Conv3d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Recipe:
    """How a device folds."""

    volumetric: bool
    """Pooling and growing read and write the frames where they lie, as NDHWC volumes, with one (transposed) 3D
    convolution. Otherwise pooling joins frames as channels, and growing makes the four phases as channels."""


RECIPES: Mapping[str, Recipe] = {
    "cpu": Recipe(volumetric=True),
    "cuda": Recipe(volumetric=False),
}
"""By device type; ``benchmarks/RESULTS.md`` has the measurements."""


class FoldedTAEHV(VideoAutoencoder):
    """A model made of folded layers, for inference. Everything is channels last.

    Args:
        model: the plain model. It is not changed, and changes of its weights after this are not seen.
        recipe: how to fold; None takes the one of the model's device.
    """

    def __init__(self, model: TAEHV, recipe: Recipe | None = None) -> None:
        chosen = recipe or RECIPES[next(model.parameters()).device.type]
        with torch.no_grad():
            super().__init__(model.variant, _fold(model.encoder, chosen), _fold(model.decoder, chosen))
        self.requires_grad_(False).eval()

    @torch.inference_mode()
    def run_encoder(self, frames_ntchw: Tensor, clips: int, memory: Memory | None = None) -> Tensor:
        """As the plain model's, without gradients."""
        return super().run_encoder(frames_ntchw, clips, memory)

    @torch.inference_mode()
    def run_decoder(self, latents_ntchw: Tensor, clips: int, memory: Memory | None = None) -> Tensor:
        """As the plain model's, without gradients."""
        return super().run_decoder(latents_ntchw, clips, memory)


class FoldedMemBlock(TemporalBlock):
    """A MemBlock that adds what two convolutions make of now and of the past, with nothing joined, and in place."""

    def __init__(self, block: MemBlock) -> None:
        super().__init__()
        first, _, second, _, third = block.conv
        assert isinstance(first, nn.Conv2d)
        now, past = first.weight.chunk(2, dim=1)
        self.now = _with_weights(nn.Conv2d, now, first.bias, padding=1)
        self.past = _with_weights(nn.Conv2d, past, None, padding=1)
        self.second, self.third, self.skip = _copy(second), _copy(third), _copy(block.skip)

    def forward(self, frames: Tensor, clips: int, before: Tensor | None = None) -> Tensor:
        hidden = self.now(frames)
        by_clip, sums = frames.unflatten(0, (clips, -1)), hidden.unflatten(0, (clips, -1))
        if by_clip.shape[1] > 1:
            sums[:, 1:] += self.past(by_clip[:, :-1].flatten(0, 1)).unflatten(0, (clips, -1))
        if before is not None:
            sums[:, 0] += self.past(before[:, 0])
        hidden = self.second(hidden.relu_()).relu_()
        return self.third(hidden).add_(self.skip(frames)).relu_()


class InPlaceSuperMemBlock(TemporalBlock):
    """A SuperMemBlock that works in place after the concatenation."""

    def __init__(self, block: SuperMemBlock) -> None:
        super().__init__()
        depthwise, widen, _, narrow = _copy(block.conv)
        self.conv = nn.Sequential(depthwise, widen, nn.ReLU(inplace=True), narrow)

    def forward(self, frames: Tensor, clips: int, before: Tensor | None = None) -> Tensor:
        past = one_step_earlier(frames, clips, before)
        return self.conv(torch.cat([frames, past], dim=1)).add_(frames)


class PooledVolume(nn.Module):
    """A 3D convolution over groups of ``stride`` successive frames, which it reads where they lie."""

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, frames: Tensor) -> Tensor:
        volume = frames.unflatten(0, (1, -1)).transpose(1, 2)
        conv = self.conv
        if volume.device.type == "cpu" and volume.dtype == torch.float32 and torch.backends.mkldnn.is_available():
            assert isinstance(conv.padding, tuple)
            # PyTorch leaves a volume of few rows to its own kernel, which is several times slower than oneDNN's.
            pooled = torch.mkldnn_convolution(
                volume, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups
            )
        else:
            pooled = conv(volume)
        return pooled.transpose(1, 2).flatten(0, 1)


class GrownVolume(nn.Module):
    """A transposed 3D convolution that makes ``stride`` frames of twice the size of each frame, in their places."""

    def __init__(self, conv: nn.ConvTranspose3d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, frames: Tensor) -> Tensor:
        volume = frames.unflatten(0, (1, -1)).transpose(1, 2)
        return self.conv(volume).transpose(1, 2).flatten(0, 1)


class JoinedFrames(nn.Module):
    """A 2D convolution over ``stride`` successive frames joined as channels."""

    def __init__(self, conv: nn.Conv2d, stride: int) -> None:
        super().__init__()
        self.conv, self.stride = conv, stride

    def forward(self, frames: Tensor) -> Tensor:
        return self.conv(frames.unflatten(0, (-1, self.stride)).flatten(1, 2))


class GrownFrames(nn.Module):
    """A 2D convolution whose output channels are ``stride`` frames, earliest first, each of 1 or 2 x 2 phases."""

    def __init__(self, conv: nn.Conv2d, stride: int, phases: int) -> None:
        super().__init__()
        self.conv, self.stride, self.phases = conv, stride, phases

    def forward(self, frames: Tensor) -> Tensor:
        grown = self.conv(frames)
        if self.phases == 1:
            return grown.unflatten(1, (self.stride, -1)).flatten(0, 1)
        height, width = frames.shape[-2:]
        by_phase = grown.unflatten(1, (self.stride, 2, 2, -1))
        # (T, stride, row phase, column phase, C, H, W), each phase at its own place of the padded grid.
        rows = [
            torch.stack([by_phase[:, :, a, b, :, a : a + height, b : b + width] for b in (0, 1)], dim=-1)
            for a in (0, 1)
        ]
        # (T, stride, C, H, row phase, W, column phase)
        return torch.stack(rows, dim=4).flatten(5, 6).flatten(3, 4).flatten(0, 1)


def _fold(layers: Iterable[nn.Module], recipe: Recipe) -> nn.Sequential:
    folded: list[nn.Module] = []
    rest = list(layers)
    while rest:
        match rest:
            case [TPool() as pool, nn.Conv2d() as conv, *rest]:
                folded.append(_fold_pool(pool, conv, recipe))
            case [nn.Upsample() as upsample, TGrow() as grow, nn.Conv2d() as conv, *rest]:
                folded.append(_fold_grow(grow, conv, 2 if upsample.scale_factor == 2 else 1, recipe))
            case [TGrow() as grow, nn.Conv2d() as conv, *rest]:
                folded.append(_fold_grow(grow, conv, 1, recipe))
            case [MemBlock() as block, *rest]:
                folded.append(FoldedMemBlock(block))
            case [SuperMemBlock() as block, *rest]:
                folded.append(InPlaceSuperMemBlock(block))
            case [nn.ReLU(), *rest]:
                folded.append(nn.ReLU(inplace=True))
            case [layer, *rest]:
                folded.append(_copy(layer))
    return nn.Sequential(*folded)


def _fold_pool(pool: TPool, conv: nn.Conv2d, recipe: Recipe) -> nn.Module:
    kernel = folding.pool_then_convolve(pool.conv.weight, conv.weight)
    if recipe.volumetric:
        stride = (pool.stride, *conv.stride)
        return PooledVolume(_with_weights(nn.Conv3d, kernel, conv.bias, stride=stride, padding=(0, 1, 1)))
    joined = kernel.transpose(1, 2).flatten(1, 2)
    return JoinedFrames(_with_weights(nn.Conv2d, joined, conv.bias, stride=conv.stride, padding=1), pool.stride)


def _fold_grow(grow: TGrow, conv: nn.Conv2d, space: int, recipe: Recipe) -> nn.Module:
    kernels = folding.grow_then_convolve(grow.conv.weight, conv.weight)
    if space == 2 and recipe.volumetric:
        kernel = folding.upsample_as_transposed(kernels)
        return GrownVolume(
            _with_weights(nn.ConvTranspose3d, kernel, conv.bias, stride=(grow.stride, 2, 2), padding=(0, 1, 1))
        )
    biases = None if conv.bias is None else conv.bias.repeat(grow.stride * space**2)
    flat = folding.upsample_as_phases(kernels) if space == 2 else kernels.flatten(0, 1)
    return GrownFrames(_with_weights(nn.Conv2d, flat, biases, padding=1), grow.stride, space**2)


def _copy(layer: Module) -> Module:
    """A layer of its own, channels last."""
    return copy.deepcopy(layer).to(memory_format=torch.channels_last)


def _with_weights(kind: type[Conv], weight: Tensor, bias: Tensor | None, **settings: Any) -> Conv:
    """A convolution of these weights, channels last."""
    transposed = issubclass(kind, nn.ConvTranspose3d)
    channels_in, channels_out = weight.shape[:2] if transposed else weight.shape[1::-1]
    taps: Any = tuple(weight.shape[2:])
    conv = kind(channels_in, channels_out, taps, bias=bias is not None, device="meta", **settings)
    last = torch.channels_last if weight.ndim == 4 else torch.channels_last_3d
    conv.weight = nn.Parameter(weight.detach().contiguous(memory_format=last))
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone())
    return conv
