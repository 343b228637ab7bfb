"""The training objective: the student, run once per slot, and every loss term that has a weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from taehv.config.params import Distillation, LossWeights, Perceptual, Seraena
from taehv.losses.distillation import TERMS, factor
from taehv.losses.encoder import encoder_per_clip
from taehv.losses.perceptual import ssim_distance_per_clip
from taehv.losses.reconstruction import recon_per_clip
from taehv.losses.seraena import ramp, seraena_per_clip
from taehv.model import fused_training, fused_training_2d
from taehv.model.compilation import Compiled
from taehv.model.formulations import TRAINING
from taehv.model.taehv import TAEHV

Corrections = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Decoded frames, their originals and the latents they were decoded from, to corrections of the decoded frames."""

PERCEPTUAL = {"ssim": ssim_distance_per_clip}


class Objective(nn.Module):
    """Student and loss terms in one module, so that a distributed wrapper sees a single forward pass.

    A term with weight 0 costs nothing: what only it needs is not computed.
    """

    def __init__(
        self,
        student: TAEHV,
        weights: LossWeights,
        distillation: Distillation,
        perceptual: Perceptual,
        seraena: Seraena,
    ) -> None:
        super().__init__()
        self.student = student
        self._weights = {term: weight for term, weight in weights if weight > 0}
        self._distillation = distillation
        self._perceptual = PERCEPTUAL[perceptual.name]
        self._seraena = seraena
        self._compiled = Compiled(self._planar_terms, "the training step")

    @property
    def needs_teacher(self) -> bool:
        return "encoder" in self._weights or "decoder" in self._weights

    @property
    def needs_adversary(self) -> bool:
        """Whether the adversarial term comes in at some step."""
        return "seraena" in self._weights

    @property
    def distance_weights(self) -> dict[str, float]:
        """The weights of params.yaml, without schedules, of the terms that measure a distance.

        Their sum can be compared between any two steps. The adversarial term is none of them: its value is the size of
        its corrections, one by construction, and jumps where the term comes in.
        """
        return {term: weight for term, weight in self._weights.items() if term != "seraena"}

    def weights_at(self, step: int) -> dict[str, float]:
        """The weight of each term that counts at update ``step``, in the order of the parameters."""
        distillation = dict.fromkeys(TERMS, factor(self._distillation, step))
        factors = {**distillation, "seraena": ramp(self._seraena, step)}
        weights = {term: weight * factors.get(term, 1.0) for term, weight in self._weights.items()}
        return {term: weight for term, weight in weights.items() if weight > 0}

    def forward(
        self, frames_ntchw: Tensor, teacher_latents_ntchw: Tensor | None, corrections: Corrections | None = None
    ) -> dict[str, Tensor]:
        """Unweighted loss of each clip, (N,), by term.

        Args:
            frames_ntchw: (N, T, 3, H, W) in [0, 1].
            teacher_latents_ntchw: the teacher's latents of the same frames; None only if no term needs them.
            corrections: the adversary's; None where the adversarial term does not count.
        """
        if TRAINING[frames_ntchw.device.type].layout == "planes":
            terms = self._terms_on_planes(frames_ntchw, teacher_latents_ntchw, corrections)
            return {term: terms[term] for term in self._weights if term in terms}
        terms = self._round_trip_terms(frames_ntchw, teacher_latents_ntchw, corrections)
        if "decoder" in self._weights:
            assert teacher_latents_ntchw is not None
            terms["decoder"] = recon_per_clip(fused_training.decode(self.student, teacher_latents_ntchw), frames_ntchw)
        return {term: terms[term] for term in self._weights if term in terms}

    def _round_trip_terms(
        self, frames: Tensor, teacher_latents: Tensor | None, corrections: Corrections | None
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        wants_decoded = "recon" in self._weights or "perceptual" in self._weights or corrections is not None
        if not wants_decoded and "encoder" not in self._weights:
            return terms
        latents = fused_training.encode(self.student, frames)
        if "encoder" in self._weights:
            assert teacher_latents is not None
            terms["encoder"] = encoder_per_clip(latents, teacher_latents)
        if wants_decoded:
            decoded = fused_training.decode(self.student, latents)
            if "recon" in self._weights:
                terms["recon"] = recon_per_clip(decoded, frames)
            if "perceptual" in self._weights:
                terms["perceptual"] = self._perceptual(decoded, frames)
            if corrections is not None:
                terms["seraena"] = seraena_per_clip(decoded, corrections(decoded, frames, latents))
        return terms

    def _terms_on_planes(
        self, frames: Tensor, teacher_latents: Tensor | None, corrections: Corrections | None
    ) -> dict[str, Tensor]:
        """All terms; the adversary, which is compiled by itself, stands between two graphs."""
        terms_of = self._compiled if TRAINING[frames.device.type].compiled else self._planar_terms
        terms, decoded, latents = terms_of(frames, teacher_latents, corrections is not None)
        if corrections is not None:
            assert decoded is not None
            assert latents is not None
            terms = {**terms, "seraena": seraena_per_clip(decoded, corrections(decoded, frames, latents))}
        return terms

    def _planar_terms(
        self, frames: Tensor, teacher_latents: Tensor | None, keep_decoded: bool
    ) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:
        """The terms that need no adversary; on request also what it is shown: decoded frames and their latents.

        Both kinds of latents are decoded in one go, which is half as much to compile.
        """
        wants_decoded = "recon" in self._weights or "perceptual" in self._weights or keep_decoded
        terms: dict[str, Tensor] = {}
        latents = decoded = None
        to_decode: list[Tensor] = []
        if wants_decoded or "encoder" in self._weights:
            latents = fused_training_2d.encode(self.student, frames)
        if latents is not None and wants_decoded:
            to_decode.append(latents)
        if "decoder" in self._weights:
            assert teacher_latents is not None
            to_decode.append(teacher_latents)
        if to_decode:
            pictures = fused_training_2d.decode(self.student, torch.cat(to_decode))
            if "decoder" in self._weights:
                terms["decoder"] = recon_per_clip(pictures[-len(frames) :], frames)
            decoded = pictures[: len(frames)] if wants_decoded else None
        if latents is not None and "encoder" in self._weights:
            assert teacher_latents is not None
            terms["encoder"] = encoder_per_clip(latents, teacher_latents)
        if decoded is not None and "recon" in self._weights:
            terms["recon"] = recon_per_clip(decoded, frames)
        if decoded is not None and "perceptual" in self._weights:
            terms["perceptual"] = self._perceptual(decoded, frames)
        return terms, decoded if keep_decoded else None, latents if keep_decoded else None


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum over terms and clips, each with its weight: a scalar."""
    return torch.stack([weights[term] * values.sum() for term, values in terms.items()]).sum()
