"""The model with fewer operations and the same numbers, for training; gradients flow through the folded weights.

``TAEHV.encode`` and ``TAEHV.decode`` stay the reference (``tests/model/test_cheaper.py`` compares them). What differs:

- tensors are channels_last, which convolutions take as they are instead of reordering them at every layer;
- TPool and the strided convolution after it are one convolution, which writes no full-size frames;
- TGrow, nearest upsampling and the convolution after it are one convolution at half the resolution, whose output
  channels are the frames and the phases of each 2x2 block;
- in the last stage the phases stay in channels up to the end: three output channels at full resolution would use a
  fifth of a vector unit, twelve at half the resolution use most of it;
- frames that the trim will drop are dropped as soon as no MemBlock needs them any more.

benchmarks/train_step.py measures it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from taehv.model import folding
from taehv.model.blocks import MemBlock, TGrow, TPool
from taehv.model.taehv import TAEHV


def encode(model: TAEHV, frames_ntchw: Tensor) -> Tensor:
    """As ``model.encode(frames_ntchw)``: (N, T, 3, H, W) in [0, 1] to latents (N, T', C, h, w)."""
    clips = frames_ntchw.shape[0]
    hidden = _channels_last(model.frames_to_first_layer(frames_ntchw))
    layers = list(model.encoder)
    for i, layer in enumerate(layers):
        if isinstance(layer, TPool):
            pooled = _frames_to_channels(hidden, layer.stride)
            weight = folding.pool_then_conv(layer.conv.weight, _conv(layers[i + 1]).weight)
            hidden = functional.conv2d(pooled, weight, stride=2, padding=1)
        elif isinstance(layer, MemBlock):
            hidden = _mem_block(layer, hidden, clips)
        elif not isinstance(layers[i - 1], TPool):
            hidden = layer(hidden)
    return hidden.contiguous().unflatten(0, (clips, -1))


def decode(model: TAEHV, latents_ntchw: Tensor) -> Tensor:
    """As ``model.decode(latents_ntchw)``: (N, T, C, h, w) to aligned, unclamped frames (N, T', 3, H, W)."""
    clips, length = latents_ntchw.shape[:2]
    trim = model.variant.frames_to_trim(length)
    layers = list(model.decoder)
    grows = [i for i, layer in enumerate(layers) if isinstance(layer, TGrow)]
    hidden = _channels_last(latents_ntchw.flatten(0, 1))
    for i, layer in enumerate(layers[: grows[-1]]):
        if isinstance(layer, TGrow):
            weight = _grow_upsample_conv_weight(layer, _conv(layers[i + 1]))
            phases = functional.conv2d(hidden, weight, padding=1)
            hidden = functional.pixel_shuffle(_channels_to_frames(phases, layer.stride), 2)
        elif isinstance(layer, MemBlock):
            hidden = _mem_block(layer, hidden, clips)
        elif not (isinstance(layer, nn.Upsample) or isinstance(layers[i - 1], TGrow)):
            hidden = layer(hidden)
    grow, conv, _, last = layers[grows[-1] :]
    assert isinstance(grow, TGrow)
    hidden = _drop_first(hidden, clips, trim // grow.stride)
    weight, bias = folding.conv_on_phases(_conv(last).weight), _conv(last).bias
    assert bias is not None
    # Frame by frame: to part the channels of a tensor this large would cost more than a second convolution.
    frames = []
    for frame_weight in _grow_upsample_conv_weight(grow, _conv(conv)).chunk(grow.stride):
        phases = functional.relu_(functional.conv2d(hidden, frame_weight, padding=1))
        frames.append(functional.conv2d(phases, weight, bias.repeat_interleave(4), padding=1))
    phases = torch.stack(frames, dim=1).flatten(0, 1)
    return model.last_layer_to_frames(functional.pixel_shuffle(phases, 2), clips)[:, trim % grow.stride :]


def _mem_block(block: MemBlock, frames: Tensor, clips: int) -> Tensor:
    """As ``block(frames, clips)``; its past is made without leaving channels_last."""
    past = torch.cat([torch.zeros_like(frames[:1]), frames[:-1]])
    past[:: len(frames) // clips] = 0
    first, _, second, _, third = block.conv
    hidden = functional.relu_(first(torch.cat([frames, past], dim=1)))
    hidden = third(functional.relu_(second(hidden)))
    return functional.relu_(hidden.add_(block.skip(frames)))


def _grow_upsample_conv_weight(grow: TGrow, conv: nn.Conv2d) -> Tensor:
    """Of the convolution that gives each grown frame's phases: (stride * 4 * C_out, C, 3, 3)."""
    return folding.upsample_then_conv(folding.grow_then_conv(grow.conv.weight, conv.weight, grow.stride))


def _frames_to_channels(frames: Tensor, stride: int) -> Tensor:
    """(N * stride, C, H, W) to (N, stride * C, H, W), earliest frame first, both channels_last."""
    rows = frames.permute(0, 2, 3, 1).unflatten(0, (-1, stride))
    return rows.permute(0, 2, 3, 1, 4).flatten(3).permute(0, 3, 1, 2)


def _channels_to_frames(frames: Tensor, stride: int) -> Tensor:
    """The inverse: (N, stride * C, H, W) to (N * stride, C, H, W), both channels_last."""
    rows = frames.permute(0, 2, 3, 1).unflatten(3, (stride, -1))
    return rows.permute(0, 3, 1, 2, 4).flatten(0, 1).permute(0, 3, 1, 2)


def _channels_last(frames: Tensor) -> Tensor:
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
