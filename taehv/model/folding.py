"""The algebra of the fast paths: weights of one convolution that does the work of several layers, exactly.

All functions are linear in the weights and differentiable. They compute in float64 and return the weights' type, so
that folding adds no more than the rounding of one number. Frames made of one frame are counted by ``stride``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Nearest upsampling by 2, then a 3x3 convolution, along one axis: output 2i + a reads upsampled 2i + a + d for d in
# -1, 0, 1, which is input i + floor((a + d) / 2). TRANSPOSED[j, d + 1] says whether tap d reaches output 2i - 1 + j
# from input i: a transposed convolution of 4 taps, stride 2, padding 1.
_TRANSPOSED = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float64)


def pool_then_convolve(pool: Tensor, weight: Tensor) -> Tensor:
    """TPool, then a convolution, as one convolution over ``stride`` frames.

    (C, stride * C, 1, 1) and (C_out, C, 3, 3) to (C_out, C, stride, 3, 3).
    """
    by_frame = pool.double()[:, :, 0, 0].unflatten(1, (-1, pool.shape[0]))
    return torch.einsum("omyx,mtc->octyx", weight.double(), by_frame).to(weight.dtype)


def grow_then_convolve(grow: Tensor, weight: Tensor) -> Tensor:
    """TGrow, then a convolution, as one convolution with ``stride`` frames of output.

    (stride * C, C, 1, 1) and (C_out, C, 3, 3) to (stride, C_out, C, 3, 3). Upsampling may come first, for a 1x1
    convolution commutes with it.
    """
    by_frame = grow.double()[:, :, 0, 0].unflatten(0, (-1, grow.shape[1]))
    return torch.einsum("omyx,smc->socyx", weight.double(), by_frame).to(weight.dtype)


def upsample_as_transposed(kernels: Tensor) -> Tensor:
    """Nearest upsampling by 2, then ``kernels``, as one transposed convolution, with 4 taps per pixel instead of 9.

    (stride, C_out, C, 3, 3) to (C, C_out, stride, 4, 4), for strides (stride, 2, 2) and padding (0, 1, 1).
    """
    to = _TRANSPOSED.to(kernels.device)
    return torch.einsum("jy,ix,socyx->cosji", to, to, kernels.double()).to(kernels.dtype)


def upsample_as_planes(kernels: Tensor) -> Tensor:
    """As ``upsample_as_transposed``, with the frames side by side in channels, and of slices alone.

    A compiled training step must not read constants from the host. (stride, C_out, C, 3, 3) to
    (C, stride * C_out, 4, 4), for stride 2 and padding 1.
    """
    for axis in (3, 4):
        first, middle, last = kernels.unbind(axis)
        kernels = torch.stack([last, middle + last, first + middle, first], dim=axis)
    return kernels.permute(2, 0, 1, 3, 4).flatten(1, 2)


def side_by_side(weight: Tensor, frames: int) -> Tensor:
    """A convolution of each of ``frames`` frames that lie side by side in channels: block diagonal.

    (C_out, C, 3, 3) to (frames * C_out, frames * C, 3, 3).
    """
    channels = weight.shape[1]
    rows = [
        functional.pad(weight, (0, 0, 0, 0, frame * channels, (frames - 1 - frame) * channels))
        for frame in range(frames)
    ]
    return torch.cat(rows)
