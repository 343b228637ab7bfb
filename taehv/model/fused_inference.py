"""The same numbers, faster: a plain model with its layers folded together (``folding.py`` has the algebra).

What is done on which device is chosen in one place, ``formulations.RECIPES``; ``benchmarks/codec.py`` measures it. The
plain model stays the reference: ``tests/model/test_fused_inference.py`` compares.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from taehv.model import fused_weights
from taehv.model.autoencoder import VideoAutoencoder
from taehv.model.blocks import MemBlock, SuperMemBlock, TemporalBlock, TGrow, TPool, one_step_earlier
from taehv.model.cuda_graphs import StreamGraphs
from taehv.model.formulations import RECIPES, Recipe
from taehv.model.fused_training import frames_to_channels
from taehv.model.fused_training_2d import TENSOR_CORE_CHANNELS, channels_to_frames, repeated
from taehv.model.padding import Memory
from taehv.model.taehv import TAEHV

Module = TypeVar("Module", bound=nn.Module)
Conv = TypeVar("Conv", nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


CELL_BYTES = 2**28
"""About how much memory the decoder's full-size activations may take at a time."""


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
        self._graphs = StreamGraphs() if chosen.graphs else None

    @torch.inference_mode()
    def run_encoder(self, frames_ntchw: Tensor, clips: int, memory: Memory | None = None) -> Tensor:
        """As the plain model's, without gradients."""
        if memory and self._graphs is not None and self._graphs.pays(frames_ntchw, self.variant.t_downscale):
            return self._graphs.run(super().run_encoder, frames_ntchw, clips, memory)
        return super().run_encoder(frames_ntchw, clips, memory)

    @torch.inference_mode()
    def run_decoder(self, latents_ntchw: Tensor, clips: int, memory: Memory | None = None) -> Tensor:
        """As the plain model's, without gradients."""
        if memory and self._graphs is not None and self._graphs.pays(latents_ntchw, 1):
            return self._graphs.run(super().run_decoder, latents_ntchw, clips, memory)
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


class ConvReLU(nn.Module):
    """``relu(conv(x))`` or ``relu(conv(x) + added)``.

    Args:
        conv: what is done.
        fused: in 16 bits on a GPU let cuDNN do all of it in one kernel; bias, sum and ReLU otherwise read and write
            everything once more each.
    """

    def __init__(self, conv: nn.Conv2d, fused: bool) -> None:
        super().__init__()
        self.conv = conv
        # cuDNN has such kernels for whole groups of eight channels.
        self.fused = fused and conv.in_channels % 8 == 0 and conv.out_channels % 8 == 0

    def applies_to(self, frames: Tensor) -> bool:
        """Whether these frames take the fused kernel."""
        return self.fused and frames.is_cuda and frames.dtype in (torch.float16, torch.bfloat16)

    def forward(self, frames: Tensor, added: Tensor | None = None) -> Tensor:
        conv = self.conv
        if self.applies_to(frames):
            assert isinstance(conv.padding, tuple)
            rest = conv.stride, conv.padding, conv.dilation, conv.groups
            if added is None:
                return torch.cudnn_convolution_relu(frames, conv.weight, conv.bias, *rest)
            return torch.cudnn_convolution_add_relu(frames, conv.weight, added, 1.0, conv.bias, *rest)
        hidden: Tensor = conv(frames)
        return (hidden if added is None else hidden.add_(added)).relu_()


class FusedMemBlock(TemporalBlock):
    """A MemBlock of four convolutions and no other kernels: what the past adds is the summand of the next one."""

    def __init__(self, block: MemBlock) -> None:
        super().__init__()
        first, _, second, _, third = block.conv
        assert isinstance(first, nn.Conv2d)
        now, past = first.weight.chunk(2, dim=1)
        self.now = ConvReLU(_with_weights(nn.Conv2d, now, first.bias, padding=1), fused=True)
        self.past = _with_weights(nn.Conv2d, past, None, padding=1)
        self.second, self.third = (ConvReLU(_copy(_conv(conv)), fused=True) for conv in (second, third))
        self.skip = _copy(block.skip)

    def forward(self, frames: Tensor, clips: int, before: Tensor | None = None) -> Tensor:
        return self.third(self.second(self.now(frames, self._from_past(frames, clips, before))), self.skip(frames))

    def _from_past(self, frames: Tensor, clips: int, before: Tensor | None) -> Tensor:
        """What each frame's predecessor adds to it, written where it is added from."""
        if clips > 1 or not self.now.applies_to(frames):
            return self.past(one_step_earlier(frames, clips, before).contiguous(memory_format=torch.channels_last))
        count, _, height, width = frames.shape
        shape = (count, self.past.out_channels, height, width)
        added = torch.empty(shape, dtype=frames.dtype, device=frames.device, memory_format=torch.channels_last)
        if before is None:
            added[0].zero_()
        else:
            self._convolve_into(added[:1], before[:, 0])
        if count > 1:
            self._convolve_into(added[1:], frames[:-1])
        return added

    def _convolve_into(self, result: Tensor, frames: Tensor) -> None:
        settings = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32
        past = self.past
        assert isinstance(past.padding, tuple)
        torch.cudnn_convolution(
            frames, past.weight, past.padding, past.stride, past.dilation, past.groups, *settings, out=result
        )


class JoinedFrames(nn.Module):
    """A 2D convolution over ``stride`` successive frames joined as channels."""

    def __init__(self, conv: nn.Conv2d, stride: int) -> None:
        super().__init__()
        self.conv, self.stride = conv, stride

    def forward(self, frames: Tensor) -> Tensor:
        return self.conv(frames_to_channels(frames, self.stride))


class GrownPlanes(nn.Module):
    """A (transposed) 2D convolution whose output channels are ``stride`` frames, earliest first."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, stride: int) -> None:
        super().__init__()
        self.conv, self.stride = conv, stride

    def forward(self, frames: Tensor) -> Tensor:
        return channels_to_frames(self.conv(frames), self.stride)


class Entry(nn.Module):
    """The entry convolution and its ReLU: images go in one by one and come out ``stride`` side by side."""

    def __init__(self, conv: nn.Conv2d, stride: int, fused: bool) -> None:
        super().__init__()
        self.stride = stride
        missing = -stride * conv.in_channels % TENSOR_CORE_CHANNELS
        weight = functional.pad(fused_weights.block_diagonal(conv.weight, stride), (0, 0, 0, 0, 0, missing))
        conv = _with_weights(nn.Conv2d, weight, repeated(conv.bias, stride), padding=conv.padding)
        self.convolve = ConvReLU(conv, fused)

    def forward(self, images: Tensor) -> Tensor:
        side_by_side = images.unflatten(0, (-1, self.stride)).flatten(1, 2)
        count, channels, *size = side_by_side.shape
        shape = (count, self.convolve.conv.in_channels, *size)
        filled = torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=torch.channels_last)
        filled[:, :channels] = side_by_side
        filled[:, channels:] = 0
        return self.convolve(filled)


class Exit(nn.Module):
    """TGrow, upsampling, convolution, ReLU and the exit convolution, on cells of 2x2 pixels as channels."""

    def __init__(self, grow: TGrow, conv: nn.Conv2d, last: nn.Conv2d, fused: bool) -> None:
        super().__init__()
        self.stride = grow.stride
        phases = fused_weights.upsample_as_phases(fused_weights.grow_then_convolve(grow.conv.weight, conv.weight))
        no_bias = phases.new_zeros(len(phases))  # cuDNN's fused kernel wants one
        self.grow = ConvReLU(_with_weights(nn.Conv2d, phases, no_bias, padding=1), fused)
        blocks = fused_weights.block_diagonal(fused_weights.convolve_phases(last.weight), grow.stride)
        bias = None if last.bias is None else last.bias.repeat_interleave(4)
        self.last = _with_weights(nn.Conv2d, blocks, repeated(bias, grow.stride))

    def forward(self, frames: Tensor) -> Tensor:
        # A cell takes 4 times the memory of what it is grown from, all frames' at once more than all else together.
        at_once = max(1, CELL_BYTES // (4 * self.stride * frames[0].nbytes))
        return torch.cat([self._leave(piece) for piece in frames.split(at_once)])

    def _leave(self, frames: Tensor) -> Tensor:
        grown = self.grow(frames)
        cells = grown.unflatten(1, (self.stride, 2, 2, -1))
        cells[:, :, 0, :, :, -1].zero_()  # beyond the image: below, above, right and left of it
        cells[:, :, 1, :, :, 0].zero_()
        cells[:, :, :, 0, :, :, -1].zero_()
        cells[:, :, :, 1, :, :, 0].zero_()
        images = functional.pixel_shuffle(self.last(grown).contiguous(), 2)
        return images.unflatten(1, (self.stride, -1)).flatten(0, 1)


def _fold(layers: Iterable[nn.Module], recipe: Recipe) -> nn.Sequential:
    folded: list[nn.Module] = []
    rest = list(layers)
    planes = recipe.layout == "planes"
    while rest:
        match rest:
            case [nn.Conv2d() as entry, nn.ReLU(), TPool() as pool, nn.Conv2d() as conv, *rest] if planes:
                folded.append(Entry(entry, pool.stride, recipe.fused))
                folded.append(_pool_side_by_side(pool, conv))
            case [TPool() as pool, nn.Conv2d() as conv, *rest]:
                folded.append(_fold_pool(pool, conv, recipe))
            case [
                nn.Upsample(scale_factor=2), TGrow() as grow, nn.Conv2d() as conv, nn.ReLU(), nn.Conv2d() as last
            ] if planes:  # fmt: skip
                folded.append(Exit(grow, conv, last, recipe.fused))
                rest = []
            case [nn.Upsample() as upsample, TGrow() as grow, nn.Conv2d() as conv, *rest]:
                folded.append(_fold_grow(grow, conv, 2 if upsample.scale_factor == 2 else 1, recipe))
            case [TGrow() as grow, nn.Conv2d() as conv, *rest]:
                folded.append(_fold_grow(grow, conv, 1, recipe))
            case [MemBlock() as block, *rest] if recipe.fused:
                folded.append(FusedMemBlock(block))
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
    if recipe.layout == "planes":
        return JoinedFrames(_pool_side_by_side(pool, conv), pool.stride)
    kernel = fused_weights.pool_then_convolve(pool.conv.weight, conv.weight)
    stride = (pool.stride, *conv.stride)
    return PooledVolume(_with_weights(nn.Conv3d, kernel, conv.bias, stride=stride, padding=(0, 1, 1)))


def _pool_side_by_side(pool: TPool, conv: nn.Conv2d) -> nn.Conv2d:
    kernel = fused_weights.pool_then_convolve(pool.conv.weight, conv.weight).transpose(1, 2).flatten(1, 2)
    return _with_weights(nn.Conv2d, kernel, conv.bias, stride=conv.stride, padding=1)


def _fold_grow(grow: TGrow, conv: nn.Conv2d, space: int, recipe: Recipe) -> nn.Module:
    if space == 1 or recipe.layout == "planes":
        return GrownPlanes(_grow_side_by_side(grow, conv, space), grow.stride)
    kernel = fused_weights.upsample_as_transposed(fused_weights.grow_then_convolve(grow.conv.weight, conv.weight))
    settings = {"stride": (grow.stride, 2, 2), "padding": (0, 1, 1)}
    return GrownVolume(_with_weights(nn.ConvTranspose3d, kernel, conv.bias, **settings))


def _grow_side_by_side(grow: TGrow, conv: nn.Conv2d, space: int) -> nn.Conv2d | nn.ConvTranspose2d:
    kernels = fused_weights.grow_then_convolve(grow.conv.weight, conv.weight)
    bias = None if conv.bias is None else conv.bias.repeat(grow.stride)
    if space == 1:
        return _with_weights(nn.Conv2d, kernels.flatten(0, 1), bias, padding=1)
    planes = fused_weights.upsample_as_transposed(kernels).transpose(1, 2).flatten(1, 2)
    return _with_weights(nn.ConvTranspose2d, planes, bias, stride=2, padding=1)


def _conv(layer: nn.Module) -> nn.Conv2d:
    assert isinstance(layer, nn.Conv2d)
    return layer


def _copy(layer: Module) -> Module:
    """A layer of its own, channels last."""
    return copy.deepcopy(layer).to(memory_format=torch.channels_last)


def _with_weights(kind: type[Conv], weight: Tensor, bias: Tensor | None, **settings: Any) -> Conv:
    """A convolution of these weights, channels last."""
    transposed = issubclass(kind, nn.ConvTranspose2d | nn.ConvTranspose3d)
    channels_in, channels_out = weight.shape[:2] if transposed else weight.shape[1::-1]
    taps: Any = tuple(weight.shape[2:])
    conv = kind(channels_in, channels_out, taps, bias=bias is not None, device="meta", **settings)
    last = torch.channels_last if weight.ndim == 4 else torch.channels_last_3d
    conv.weight = nn.Parameter(weight.detach().contiguous(memory_format=last))
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone())
    return conv
