"""Latent distillation: mean (E(x) - zT)^2, zT the teacher's latents of x."""

from __future__ import annotations

from torch import Tensor


def encoder_per_clip(latents_ntchw: Tensor, teacher_latents_ntchw: Tensor) -> Tensor:
    """Mean squared error of each clip's latents, equal shapes, to (N,).

    Raises:
        ValueError: the shapes differ, which would otherwise broadcast in silence.
    """
    if latents_ntchw.shape != teacher_latents_ntchw.shape:
        shapes = f"{tuple(latents_ntchw.shape)} and {tuple(teacher_latents_ntchw.shape)}"
        raise ValueError(f"student and teacher latents have different shapes: {shapes}")
    return (latents_ntchw - teacher_latents_ntchw).square().flatten(1).mean(1)
