"""The decoder with fewer operations and the same numbers, for training.

Two exact rewrites of ``TAEHV.decode``, which stays the reference (``tests/model/test_cheaper.py`` compares them):

- a 1x1 convolution commutes with nearest upsampling, so TGrow runs before it, on a quarter of the pixels;
- frames that the trim will drop are dropped as soon as no MemBlock needs them any more, before the most expensive
  layers, which work at full resolution.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from taehv.model.blocks import MemBlock, TGrow
from taehv.model.taehv import TAEHV


def decode(model: TAEHV, latents_ntchw: Tensor) -> Tensor:
    """As ``model.decode(latents_ntchw)``: (N, T, C, H, W) to aligned, unclamped frames."""
    clips, length = latents_ntchw.shape[:2]
    trim = model.variant.frames_to_trim(length)
    layers = list(model.decoder)
    last_upsample = max(i for i, layer in enumerate(layers) if isinstance(layer, nn.Upsample))
    hidden = latents_ntchw.flatten(0, 1)
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.Upsample):
            grow = layers[i + 1]
            assert isinstance(grow, TGrow)
            if i == last_upsample:
                hidden = _drop_first(hidden, clips, trim // grow.stride)
                trim %= grow.stride
            hidden = layer(grow(hidden))
        elif isinstance(layer, MemBlock):
            hidden = layer(hidden, clips)
        elif not isinstance(layer, TGrow):
            hidden = layer(hidden)
    frames = functional.pixel_shuffle(hidden, model.variant.patch_size)
    return frames.unflatten(0, (clips, -1))[:, trim:]


def _drop_first(frames: Tensor, clips: int, count: int) -> Tensor:
    """Without each clip's first ``count`` frames: (clips*T, C, H, W) to (clips*(T - count), C, H, W)."""
    return frames.unflatten(0, (clips, -1))[:, count:].flatten(0, 1)
