"""The training objective: the student, run once per slot, and every loss term that has a weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from taehv.losses.encoder import encoder_per_clip
from taehv.losses.recon import recon_per_clip
from taehv.model import cheaper
from taehv.model.taehv import TAEHV
from taehv.params import LossWeights


class Objective(nn.Module):
    """Student and loss terms in one module, so that a distributed wrapper sees a single forward pass.

    A term with weight 0 costs nothing: what only it needs is not computed.
    """

    def __init__(self, student: TAEHV, weights: LossWeights) -> None:
        super().__init__()
        self.student = student
        self.weights: Mapping[str, float] = {
            term: weight for term, weight in dataclasses.asdict(weights).items() if weight > 0
        }

    @property
    def needs_teacher(self) -> bool:
        return "encoder" in self.weights or "decoder" in self.weights

    def forward(self, frames_ntchw: Tensor, teacher_latents_ntchw: Tensor | None) -> dict[str, Tensor]:
        """Unweighted loss of each clip, (N,), by term.

        Args:
            frames_ntchw: (N, T, 3, H, W) in [0, 1].
            teacher_latents_ntchw: the teacher's latents of the same frames; None only if no term needs them.
        """
        terms: dict[str, Tensor] = {}
        if "recon" in self.weights or "encoder" in self.weights:
            latents = self.student.encode(frames_ntchw)
            if "encoder" in self.weights:
                assert teacher_latents_ntchw is not None
                terms["encoder"] = encoder_per_clip(latents, teacher_latents_ntchw)
        if "recon" in self.weights:
            terms["recon"] = recon_per_clip(cheaper.decode(self.student, latents), frames_ntchw)
        if "decoder" in self.weights:
            assert teacher_latents_ntchw is not None
            terms["decoder"] = recon_per_clip(cheaper.decode(self.student, teacher_latents_ntchw), frames_ntchw)
        return {term: terms[term] for term in self.weights}

    def weighted_sum(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Sum over terms and clips, each with its weight: a scalar."""
        return torch.stack([self.weights[term] * values.sum() for term, values in terms.items()]).sum()
