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


def upsample_as_phases(kernels: Tensor) -> Tensor:
    """Nearest upsampling by 2, then ``kernels``, as one 2x2 convolution (padding 1) whose channels are pixels.

    (stride, C_out, C, 3, 3) to (stride * 2 * 2 * C_out, C, 2, 2), channels ordered (stride, row, column, C_out). Of
    h x w pixels it makes (h + 1) x (w + 1) cells of 2 x 2: pixel (2i + a, 2j + b) of the result is in cell
    (i + a, j + b), so that cell u holds rows 2u and 2u - 1. What the outermost cells hold beyond the image, in rows
    2h and -1 and in such columns, is not part of the result.
    """
    for axis in (3, 5):  # each adds a phase in front: axis 3 is the kernel's rows, axis 5 then its columns
        first, middle, last = kernels.unbind(axis)
        even, odd = torch.stack([first, middle + last], axis), torch.stack([first + middle, last], axis)
        kernels = torch.stack([even, odd])
    # (column, row, stride, C_out, C, 2, 2)
    return kernels.permute(2, 1, 0, 3, 4, 5, 6).flatten(0, 3)


def convolve_phases(weight: Tensor) -> Tensor:
    """A 3x3 convolution (padding 1) of what ``upsample_as_phases`` made, as a 2x2 convolution of its cells.

    (C_out, C, 3, 3) to (C_out * 2 * 2, 2 * 2 * C, 2, 2), channels ordered as ``pixel_shuffle`` takes them. Cells
    (h + 1) x (w + 1) give h x w blocks of pixels: output row 2u + p reads rows 2u + p - 1 .. 2u + p + 1, which are in
    cells u and u + 1. Row 2(u + s) - a of cell u + s is the tap 2s - a - p.
    """
    for axis in (2, 5):  # each adds (output phase, input phase) in front
        above, middle, below = weight.unbind(axis)
        none = torch.zeros_like(middle)
        both = torch.stack([above, below], axis)
        first, last = torch.stack([middle, none], axis), torch.stack([none, middle], axis)
        weight = torch.stack([torch.stack([first, both]), torch.stack([both, last])])
    # (q, b, p, a, C_out, C, 2, 2) to ((C_out, p, q), (a, b, C), 2, 2)
    return weight.permute(4, 2, 0, 3, 1, 5, 6, 7).flatten(3, 5).flatten(0, 2)


def block_diagonal(weight: Tensor, frames: int) -> Tensor:
    """A convolution of each of ``frames`` frames that lie side by side in channels: block diagonal.

    (C_out, C, y, x) to (frames * C_out, frames * C, y, x).
    """
    channels = weight.shape[1]
    rows = [
        functional.pad(weight, (0, 0, 0, 0, frame * channels, (frames - 1 - frame) * channels))
        for frame in range(frames)
    ]
    return torch.cat(rows)
