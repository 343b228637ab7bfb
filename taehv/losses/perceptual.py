"""Perceptual distance: 1 - SSIM (Wang et al. 2004), on unclamped output.

The learned distance (LPIPS) needs a backbone that has to be downloaded; which one is meant is a parameter, never a
fallback.
"""

from __future__ import annotations

from torch import Tensor

from taehv.metrics import structural_similarity


def ssim_distance_per_clip(decoded_ntchw: Tensor, frames_ntchw: Tensor) -> Tensor:
    """1 - SSIM of each clip's aligned frames, 0 for equal ones: (N, T, 3, H, W) twice to (N,)."""
    return 1.0 - structural_similarity(decoded_ntchw, frames_ntchw)
