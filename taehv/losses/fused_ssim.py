"""SSIM as sums of shifted images, which a compiler makes few passes over memory of.

The same numbers as ``metrics.structural_similarity``, which stays the definition, within 1e-6
(tests/losses/test_fused_ssim.py). Convolutions with a channel each, as pytorch-msssim does them, read every image ten
times on a GPU.
"""

from __future__ import annotations

import math

from torch import Tensor

from taehv.losses.alignment import common_frames
from taehv.losses.metrics import SSIM_SIGMA, SSIM_WINDOW

# Wang et al. 2004: K1 = 0.01 and K2 = 0.03, for images of range 1.
_C1, _C2 = 0.01**2, 0.03**2


def fused_structural_similarity(decoded_ntchw: Tensor, frames_ntchw: Tensor) -> Tensor:
    """As ``taehv.losses.metrics.structural_similarity``: (N, T, 3, H, W) twice to (N,); no gradient for the second."""
    x, y = common_frames(decoded_ntchw, frames_ntchw)
    window = gaussian_window()
    mean_x, mean_y = _blurred(x, window), _blurred(y, window)
    variance_x = _blurred(x * x, window) - mean_x * mean_x
    variance_y = _blurred(y * y, window) - mean_y * mean_y
    covariance = _blurred(x * y, window) - mean_x * mean_y
    contrast = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x * mean_x + mean_y * mean_y + _C1)
    return (luminance * contrast).flatten(1).mean(dim=1)


def gaussian_window() -> list[float]:
    """The window along one axis; its sum is 1."""
    offsets = [i - SSIM_WINDOW // 2 for i in range(SSIM_WINDOW)]
    weights = [math.exp(-(offset**2) / (2 * SSIM_SIGMA**2)) for offset in offsets]
    return [weight / sum(weights) for weight in weights]


def _blurred(images: Tensor, window: list[float]) -> Tensor:
    """Weighted with the window along both axes, where it lies inside: (..., H, W) to (..., H - 10, W - 10)."""
    for axis in (-2, -1):
        length = images.shape[axis] - len(window) + 1
        total = images.narrow(axis, 0, length) * window[0]
        for i, weight in enumerate(window[1:], 1):
            total = total + images.narrow(axis, i, length) * weight
        images = total
    return images
