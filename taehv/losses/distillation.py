"""Distillation: mean (E(x) - zT)^2, zT the teacher's latents of x, and how strongly the teacher holds at each step.

Early on, the encoder and decoder terms weigh more than their parameters say. Both halves of the student then learn a
fixed mapping each (frames to the teacher's latents, the teacher's latents to frames) instead of chasing one another;
what that gains is in docs/losses.md. At the end of the schedule every weight is what params.yaml says.
"""

from __future__ import annotations

from torch import Tensor

from taehv.config.params import Distillation


def encoder_per_clip(latents_ntchw: Tensor, teacher_latents_ntchw: Tensor) -> Tensor:
    """Mean squared error of each clip's latents, equal shapes, to (N,).

    Raises:
        ValueError: the shapes differ, which would otherwise broadcast in silence.
    """
    if latents_ntchw.shape != teacher_latents_ntchw.shape:
        shapes = f"{tuple(latents_ntchw.shape)} and {tuple(teacher_latents_ntchw.shape)}"
        raise ValueError(f"student and teacher latents have different shapes: {shapes}")
    return (latents_ntchw - teacher_latents_ntchw).square().flatten(1).mean(1)


def factor(params: Distillation, step: int) -> float:
    """What the two weights are multiplied by at update ``step``: ``boost``, then falling geometrically to 1."""
    if step <= params.until_step:
        return params.boost
    if step >= params.end_step:
        return 1.0
    remaining = (params.end_step - step) / (params.end_step - params.until_step)
    return params.boost**remaining
