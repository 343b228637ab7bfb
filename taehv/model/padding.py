"""What is done to a clip around and between the layers: reading pixels, running layers, filling up, cutting."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from taehv.model.blocks import TemporalBlock
from taehv.model.variants import Segments

Memory = dict[int, Tensor]
"""What a row of layers keeps from one call to the next: each temporal block's last input frame, by its index."""


def to_float(pixels_uint8: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels in 0..255 to new ones in [0, 1]; the one place that does so."""
    return pixels_uint8.to(dtype).div_(255)


def to_uint8(frames: Tensor) -> Tensor:
    """Frames around [0, 1], clamped here, to pixels in 0..255; the one place that does so."""
    return frames.float().clamp(0, 1).mul(255).round().byte()


def run_layers(layers: nn.Sequential, frames: Tensor, clips: int, memory: Memory | None = None) -> Tensor:
    """Frames (clips*T, C, H, W) through all layers; ``memory`` is read and brought up to date where it is given."""
    for i, layer in enumerate(layers):
        if isinstance(layer, TemporalBlock):
            before = None
            if memory is not None:
                before = memory.get(i)
                memory[i] = frames.unflatten(0, (clips, -1))[:, -1:].clone()
            frames = layer(frames, clips, before)
        else:
            frames = layer(frames)
    return frames


def repeat_last(frames_ntchw: Tensor, count: int) -> Tensor:
    """``count`` copies of the last frame added at the end."""
    if count == 0:
        return frames_ntchw
    return torch.cat([frames_ntchw, frames_ntchw[:, -1:].expand(-1, count, -1, -1, -1)], dim=1)


def put_zeros_in_front(piece_ntchw: Tensor, segments: Segments) -> Tensor:
    """A piece of a clip with its black frames in front."""
    return functional.pad(piece_ntchw, (0, 0, 0, 0, 0, 0, segments.zero_frames, 0))


def cut_or_fill_with_zeros(frames_ntchw: Tensor, count: int) -> Tensor:
    """The first ``count`` frames; black ones at the end where there are fewer."""
    return functional.pad(frames_ntchw, (0, 0, 0, 0, 0, 0, 0, count - frames_ntchw.shape[1]))


def pad_to_multiple(frames: Tensor, multiple: int) -> Tensor:
    """Frames (..., 3, H, W) extended to the right and below by copies of their last column and row."""
    height, width = frames.shape[-2:]
    padding = (0, -width % multiple, 0, -height % multiple)
    return functional.pad(frames.flatten(0, -4), padding, mode="replicate").unflatten(0, frames.shape[:-3])
