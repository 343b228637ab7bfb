"""Exact algebra on convolution weights: two linear layers in a row are one. Gradients flow through it.

Weights are (C_out, C_in, 3, 3) unless said otherwise. A *phase* is the place of a pixel within its 2x2 block: channels
in phase order are those of ``pixel_unshuffle(x, 2)``, index ``4 c + 2 row + column``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def grow_then_conv(grow_weight: Tensor, conv_weight: Tensor, stride: int) -> Tensor:
    """TGrow (stride * C, C, 1, 1), then a convolution of each frame, as one: (stride * C_out, C, 3, 3)."""
    by_frame = grow_weight[:, :, 0, 0].unflatten(0, (stride, -1))
    return torch.einsum("tci,ockl->toikl", by_frame, conv_weight).flatten(0, 1)


def pool_then_conv(pool_weight: Tensor, conv_weight: Tensor) -> Tensor:
    """TPool (C, stride * C, 1, 1), then a convolution, as one: (C_out, stride * C, 3, 3)."""
    return torch.einsum("ci,ockl->oikl", pool_weight[:, :, 0, 0], conv_weight)


def upsample_then_conv(weight: Tensor) -> Tensor:
    """Nearest 2x upsampling, then a 3x3 convolution with padding 1, as one that gives phases: (4 C_out, C_in, 3, 3)."""
    taps = _taps(weight).sum(dim=2)
    return torch.einsum("oikl,pkm,qln->opqimn", weight, taps, taps).flatten(0, 2)


def conv_on_phases(weight: Tensor) -> Tensor:
    """A 3x3 convolution with padding 1 as one from phases to phases: (4 C_out, 4 C_in, 3, 3)."""
    taps = _taps(weight)
    return torch.einsum("oikl,pkrm,qlsn->opqirsmn", weight, taps, taps).flatten(3, 5).flatten(0, 2)


def _taps(like: Tensor) -> Tensor:
    """Along one axis: tap k of output phase p reads input phase r of the block at offset m - 1, (p, k, r, m)."""
    taps = torch.zeros(2, 3, 2, 3, dtype=like.dtype, device=like.device)
    for phase in range(2):
        for tap in range(3):
            block, input_phase = divmod(phase + tap - 1, 2)
            taps[phase, tap, input_phase, block + 1] = 1.0
    return taps
