"""Reconstruction: mean (D(E(x)) - x)^2, on unclamped output."""

from __future__ import annotations

from torch import Tensor

from taehv.losses.alignment import common_frames


def recon_per_clip(decoded_ntchw: Tensor, frames_ntchw: Tensor) -> Tensor:
    """Mean squared error of each clip's aligned frames: (N, T, 3, H, W) twice to (N,)."""
    decoded, frames = common_frames(decoded_ntchw, frames_ntchw)
    return (decoded - frames).square().flatten(1).mean(1)
