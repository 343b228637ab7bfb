"""Perceptual distance: 1 - SSIM (Wang et al. 2004), on unclamped output.

The learned distance (LPIPS) needs a backbone that has to be downloaded; which one is meant is a parameter, never a
fallback.
"""

from __future__ import annotations

import torch
from torch import Tensor

from taehv.losses import fused_ssim, metrics
from taehv.model.formulations import TRAINING

SIMILARITIES = {"library": metrics.structural_similarity, "shifted sums": fused_ssim.fused_structural_similarity}


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
