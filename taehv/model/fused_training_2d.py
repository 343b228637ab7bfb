"""The model as 2D convolutions alone, for training on a GPU; gradients flow through the folded weights.

``TAEHV.encode`` and ``TAEHV.decode`` stay the reference (tests/model/test_fused_training.py compares in float64). As
in ``fused_training.py``, layers that are linear are folded into one. What differs from there:

- a convolution that pools reads its frames side by side in channels, one that grows writes them so: cuDNN's 2D kernels
  reach 330 to 530 TFLOP/s on an H100 where its 3D ones reach 320;
- the entry convolution writes, and the exit convolution reads, frames side by side, so that full-size ones are never
  moved; on the side of the images their channels are filled up with zeros to a multiple of 8, without which cuDNN is
  three times slower;
- no index and no constant comes from the host, so that the processor never waits for the GPU, and everything between
  two convolutions can be one kernel (``taehv/model/compilation.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from taehv.model import fused_weights
from taehv.model.blocks import MemBlock, TGrow, TPool
from taehv.model.fused_training import channels_last, frames_to_channels
from taehv.model.padding import repeat_last
from taehv.model.taehv import TAEHV

TENSOR_CORE_CHANNELS = 8
"""Numbers of channels that tensor cores take as they are are multiples of this, in 16 bits."""


def encode(model: TAEHV, frames_ntchw: Tensor) -> Tensor:
    """As ``model.encode(frames_ntchw)``: (N, T, 3, H, W) in [0, 1] to latents (N, T', C, h, w)."""
    model.check_frames(frames_ntchw)
    clips, length = frames_ntchw.shape[:2]
    frames = repeat_last(frames_ntchw, model.variant.padded_frames(length) - length)
    images = functional.pixel_unshuffle(frames.flatten(0, 1), model.variant.patch_size)
    entry, _, *layers = model.encoder
    first = layers[0]
    assert isinstance(first, TPool)
    hidden = functional.relu(_enter(images.unflatten(0, (-1, first.stride)).flatten(1, 2), _conv(entry), first.stride))
    for i, layer in enumerate(layers):
        if isinstance(layer, TPool):
            kernel = fused_weights.pool_then_convolve(layer.conv.weight, _conv(layers[i + 1]).weight)
            joined = hidden if layer is first else frames_to_channels(hidden, layer.stride)
            hidden = functional.conv2d(joined, kernel.transpose(1, 2).flatten(1, 2), stride=2, padding=1)
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
    *layers, _, last_grow, last_conv, _, exit_conv = model.decoder
    assert isinstance(last_grow, TGrow)
    hidden = channels_last(latents_ntchw.flatten(0, 1))
    for i, layer in enumerate(layers):
        if isinstance(layer, TGrow):
            hidden = channels_to_frames(_grow(hidden, layer, _conv(layers[i + 1])), layer.stride)
        elif isinstance(layer, MemBlock):
            hidden = _mem_block(layer, hidden, clips)
        elif not (isinstance(layer, nn.Upsample) or isinstance(layers[i - 1], TGrow)):
            hidden = layer(hidden)
    hidden = _drop_first(hidden, clips, trim // last_grow.stride)
    images = _leave(hidden, last_grow, _conv(last_conv), _conv(exit_conv))
    frames = functional.pixel_shuffle(images, model.variant.patch_size)
    return frames.unflatten(0, (clips, -1))[:, trim % last_grow.stride :]


def _enter(side_by_side: Tensor, conv: nn.Conv2d, frames: int) -> Tensor:
    """``conv`` of each of the images that lie side by side in channels."""
    missing = -side_by_side.shape[1] % TENSOR_CORE_CHANNELS
    weight = functional.pad(fused_weights.block_diagonal(conv.weight, frames), (0, 0, 0, 0, 0, missing))
    filled = channels_last(functional.pad(side_by_side, (0, 0, 0, 0, 0, missing)))
    return functional.conv2d(filled, weight, repeated(conv.bias, frames), padding=1)


def _leave(frames: Tensor, grow: TGrow, conv: nn.Conv2d, last: nn.Conv2d) -> Tensor:
    """TGrow, upsampling, convolution, ReLU and the exit convolution: (N, C, h, w) to (N * stride, C_out, 2 h, 2 w)."""
    hidden = functional.relu(_grow(frames, grow, conv))
    channels = grow.stride * last.out_channels
    missing = -channels % TENSOR_CORE_CHANNELS
    weight = functional.pad(fused_weights.block_diagonal(last.weight, grow.stride), (0, 0, 0, 0, 0, 0, 0, missing))
    bias = repeated(last.bias, grow.stride)
    bias = None if bias is None else functional.pad(bias, (0, missing))
    images = functional.conv2d(hidden, weight, bias, padding=1)[:, :channels].contiguous()
    return images.unflatten(1, (grow.stride, -1)).flatten(0, 1)


def repeated(bias: Tensor | None, times: int) -> Tensor | None:
    """The bias of ``times`` convolutions side by side."""
    return None if bias is None else bias.repeat(times)


def _mem_block(block: MemBlock, frames: Tensor, clips: int) -> Tensor:
    """As ``block(frames, clips)``."""
    earlier = functional.pad(_by_clip(frames, clips)[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
    first, _, second, _, third = block.conv
    hidden = functional.relu(first(torch.cat([frames, _as_frames(earlier)], dim=1)))
    return functional.relu(third(functional.relu(second(hidden))) + block.skip(frames))


def _grow(frames: Tensor, grow: TGrow, conv: nn.Conv2d) -> Tensor:
    """TGrow, upsampling and convolution: (N, C, h, w) to (N, stride * C_out, 2 h, 2 w), earliest frame first."""
    kernel = fused_weights.upsample_as_planes(fused_weights.grow_then_convolve(grow.conv.weight, conv.weight))
    return functional.conv_transpose2d(frames, kernel, stride=2, padding=1)


def channels_to_frames(frames: Tensor, stride: int) -> Tensor:
    """(N, stride * C, H, W) to (N * stride, C, H, W), both channels_last: the inverse of ``frames_to_channels``."""
    rows = frames.permute(0, 2, 3, 1).unflatten(3, (stride, -1))
    return rows.permute(0, 3, 1, 2, 4).flatten(0, 1).permute(0, 3, 1, 2)


def _by_clip(frames: Tensor, clips: int) -> Tensor:
    """(clips * T, C, H, W), channels_last, to (clips, T, H, W, C), as it lies in memory."""
    return frames.permute(0, 2, 3, 1).unflatten(0, (clips, -1))


def _as_frames(rows: Tensor) -> Tensor:
    """The inverse of ``_by_clip``."""
    return rows.flatten(0, 1).permute(0, 3, 1, 2)


def _drop_first(frames: Tensor, clips: int, count: int) -> Tensor:
    """Without each clip's first ``count`` frames: (clips * T, C, H, W) to (clips * (T - count), C, H, W)."""
    return frames if count == 0 else _as_frames(_by_clip(frames, clips)[:, count:])


def _conv(layer: nn.Module) -> nn.Conv2d:
    assert isinstance(layer, nn.Conv2d)
    return layer
