"""The model with fewer operations and the same numbers, for training on a CPU; gradients flow through folded weights.

``TAEHV.encode`` and ``TAEHV.decode`` stay the reference (tests/model/test_fused_training.py compares). What differs:

- tensors are channels_last, which convolutions take as they are instead of reordering them at every layer;
- TPool and the strided convolution after it are one convolution, which writes no full-size frames;
- TGrow, nearest upsampling and the convolution after it are one transposed convolution, with 4 taps per pixel for 9;
- frames that the trim will drop are dropped as soon as no MemBlock needs them any more.

Only variants in ``TRAINABLE`` have these layers. benchmarks/train_step.py measures it; ``planar.py`` is its sister for
GPUs (``formulations.py`` chooses), ``fused_inference.py`` for inference, where the weights are folded once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from taehv.model import fused_weights
from taehv.model.blocks import MemBlock, TGrow, TPool
from taehv.model.padding import repeat_last
from taehv.model.taehv import TAEHV


def encode(model: TAEHV, frames_ntchw: Tensor) -> Tensor:
    """As ``model.encode(frames_ntchw)``: (N, T, 3, H, W) in [0, 1] to latents (N, T', C, h, w)."""
    model.check_frames(frames_ntchw)
    clips, length = frames_ntchw.shape[:2]
    frames = repeat_last(frames_ntchw, model.variant.padded_frames(length) - length)
    hidden = channels_last(functional.pixel_unshuffle(frames.flatten(0, 1), model.variant.patch_size))
    layers = list(model.encoder)
    for i, layer in enumerate(layers):
        if isinstance(layer, TPool):
            kernel = fused_weights.pool_then_convolve(layer.conv.weight, _conv(layers[i + 1]).weight)
            joined = kernel.transpose(1, 2).flatten(1, 2)
            hidden = functional.conv2d(frames_to_channels(hidden, layer.stride), joined, stride=2, padding=1)
        elif isinstance(layer, MemBlock):
            hidden = _mem_block(layer, hidden, clips)
        elif not isinstance(layers[i - 1], TPool):
            hidden = layer(hidden)
    return hidden.contiguous().unflatten(0, (clips, -1))


def decode(model: TAEHV, latents_ntchw: Tensor) -> Tensor:
    """As ``model.decode(latents_ntchw)``: (N, T, C, h, w) to aligned, unclamped frames (N, T', 3, H, W)."""
    model.check_latents(latents_ntchw)
    clips, length = latents_ntchw.shape[:2]
    trim = model.variant.frames_to_trim(length)
    layers = list(model.decoder)
    last_grow = max(i for i, layer in enumerate(layers) if isinstance(layer, TGrow))
    hidden = channels_last(latents_ntchw.flatten(0, 1))
    for i, layer in enumerate(layers):
        if isinstance(layer, TGrow):
            if i == last_grow:
                hidden = _drop_first(hidden, clips, trim // layer.stride)
                trim %= layer.stride
            hidden = _grow_upsample_conv(hidden, layer, _conv(layers[i + 1]))
        elif isinstance(layer, MemBlock):
            hidden = _mem_block(layer, hidden, clips)
        elif not (isinstance(layer, nn.Upsample) or isinstance(layers[i - 1], TGrow)):
            hidden = layer(hidden)
    frames = functional.pixel_shuffle(hidden.contiguous(), model.variant.patch_size)
    return frames.unflatten(0, (clips, -1))[:, trim:]


def _mem_block(block: MemBlock, frames: Tensor, clips: int) -> Tensor:
    """As ``block(frames, clips)``; its past is made without leaving channels_last."""
    past = torch.cat([torch.zeros_like(frames[:1]), frames[:-1]])
    past[:: len(frames) // clips] = 0
    first, _, second, _, third = block.conv
    hidden = functional.relu_(first(torch.cat([frames, past], dim=1)))
    hidden = third(functional.relu_(second(hidden)))
    return functional.relu_(hidden.add_(block.skip(frames)))


def _grow_upsample_conv(frames: Tensor, grow: TGrow, conv: nn.Conv2d) -> Tensor:
    """(N*T, C, h, w) to (N*T*stride, C_out, 2 h, 2 w): frames are read and written where they lie, as one volume."""
    kernel = fused_weights.upsample_as_transposed(fused_weights.grow_then_convolve(grow.conv.weight, conv.weight))
    volume = frames.unflatten(0, (1, -1)).transpose(1, 2)
    grown = functional.conv_transpose3d(volume, kernel, stride=(grow.stride, 2, 2), padding=(0, 1, 1))
    return grown.transpose(1, 2).flatten(0, 1)


def frames_to_channels(frames: Tensor, stride: int) -> Tensor:
    """(N * stride, C, H, W) to (N, stride * C, H, W), earliest frame first, both channels_last."""
    rows = frames.permute(0, 2, 3, 1).unflatten(0, (-1, stride))
    return rows.permute(0, 2, 3, 1, 4).flatten(3).permute(0, 3, 1, 2)


def channels_last(frames: Tensor) -> Tensor:
    """The same, with the channels of a pixel next to each other in memory."""
    return frames.contiguous(memory_format=torch.channels_last)


def _conv(layer: nn.Module) -> nn.Conv2d:
    assert isinstance(layer, nn.Conv2d)
    return layer


def _drop_first(frames: Tensor, clips: int, count: int) -> Tensor:
    """Without each clip's first ``count`` frames: (clips*T, C, H, W) to (clips*(T - count), C, H, W)."""
    if count == 0:
        return frames
    length = len(frames) // clips
    kept = [frame for frame in range(len(frames)) if frame % length >= count]
    return frames[kept]
