"""Perceptual distance: 1 - SSIM (Wang et al. 2004), on unclamped output.

The learned distance (LPIPS) needs a backbone that has to be downloaded; which one is meant is a parameter, never a
fallback.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from taehv.losses.metrics import SSIM_SIGMA, SSIM_WINDOW, common_frames, structural_similarity
from taehv.model.formulations import TRAINING

# Wang et al. 2004: K1 = 0.01 and K2 = 0.03, for images of range 1.
_C1, _C2 = 0.01**2, 0.03**2


def fused_structural_similarity(decoded_ntchw: Tensor, frames_ntchw: Tensor) -> Tensor:
    """SSIM as sums of shifted images, which a compiler makes few passes over memory of: (N, T, 3, H, W) twice to (N,).

    The same numbers as ``metrics.structural_similarity``, which stays the definition, within 1e-6
    (tests/losses/test_perceptual.py). Convolutions with a channel each, as pytorch-msssim does them, read every image
    ten times on a GPU. There is no gradient for the second video.
    """
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


SIMILARITIES = {"library": structural_similarity, "shifted sums": fused_structural_similarity}
"""By the name in ``taehv/model/formulations.py``."""


def ssim_distance_per_clip(decoded_ntchw: Tensor, frames_ntchw: Tensor) -> Tensor:
    """1 - SSIM of each clip's aligned frames, 0 for equal ones: (N, T, 3, H, W) twice to (N,).

    Computed in the precision of ``frames_ntchw``, also under autocast: SSIM subtracts squared means from mean squares,
    and what bfloat16 leaves of the difference is larger than its stabilising constants (a good match then gets an SSIM
    above 1, and a gradient without bounds).
    """
    device = frames_ntchw.device.type
    with torch.autocast(device, enabled=False):
        return 1.0 - SIMILARITIES[TRAINING[device].ssim](decoded_ntchw.to(frames_ntchw.dtype), frames_ntchw)


PERCEPTUAL = {"ssim": ssim_distance_per_clip}
"""By the name in params.yaml."""
