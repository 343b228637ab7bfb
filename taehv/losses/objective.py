"""The training objective: the student, run once per slot, and every loss term that has a weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from taehv.config.params import LossWeights, Scale
from taehv.losses import distillation
from taehv.losses.metrics import common_frames
from taehv.losses.perceptual import PERCEPTUAL
from taehv.losses.seraena import ramp, seraena_per_clip
from taehv.model import fused_training, fused_training_2d
from taehv.model.compilation import Compiled
from taehv.model.formulations import TRAINING
from taehv.model.taehv import TAEHV

Made = Literal["latents", "decoded", "decoded_teacher_latents"]
"""What the student makes: of the frames, of its own latents, of the teacher's latents."""
Wanted = Literal["frames", "teacher_latents", "corrections"]
"""What is there to compare with; ``corrections``: the adversary's, which has to see the decoded frames first."""

DECODED_FROM: Mapping[Made, str] = {"decoded": "latents", "decoded_teacher_latents": "teacher_latents"}


@dataclass(frozen=True)
class Term:
    """A loss term: a distance, per clip, between what the student makes and what is wanted."""

    distance: Callable[[Tensor, Tensor], Tensor]
    made: Made
    wanted: Wanted
    factor: Callable[[int], float] = lambda step: 1.0
    """What the weight is multiplied by at an update."""


def recon_per_clip(decoded_ntchw: Tensor, frames_ntchw: Tensor) -> Tensor:
    """Mean squared error of each clip's aligned frames, unclamped: (N, T, 3, H, W) twice to (N,)."""
    decoded, frames = common_frames(decoded_ntchw, frames_ntchw)
    return (decoded - frames).square().flatten(1).mean(1)


def terms_of(scale: Scale) -> dict[str, Term]:
    """Every loss term that there is, by its name in params.yaml. A new one is a line here and a file of its own."""
    hold = partial(distillation.factor, scale.distillation)
    return {
        "recon": Term(recon_per_clip, "decoded", "frames"),
        "encoder": Term(distillation.encoder_per_clip, "latents", "teacher_latents", hold),
        "decoder": Term(recon_per_clip, "decoded_teacher_latents", "frames", hold),
        "perceptual": Term(PERCEPTUAL[scale.perceptual.name], "decoded", "frames"),
        "seraena": Term(seraena_per_clip, "decoded", "corrections", partial(ramp, scale.seraena)),
    }


@dataclass(frozen=True)
class Outputs:
    """Of one forward pass."""

    terms: dict[str, Tensor]
    """Unweighted loss of each clip, (N,), by term: all but the adversarial one."""
    decoded: Tensor | None
    """The student's round trip, unclamped, (N, T, 3, H, W), with its gradient; None unless it was asked for."""
    latents: Tensor | None
    """What that was decoded from, (N, T', C, h, w)."""


class Objective(nn.Module):
    """Student and loss terms in one module, so that a distributed wrapper sees a single forward pass.

    A term with weight 0 costs nothing: what only it needs is not computed.
    """

    def __init__(self, student: TAEHV, weights: LossWeights, scale: Scale) -> None:
        super().__init__()
        self.student = student
        self._weights = {term: weight for term, weight in weights if weight > 0}
        known = terms_of(scale)
        self._terms = {name: known[name] for name in self._weights}
        self._measured = {name: term for name, term in self._terms.items() if term.wanted != "corrections"}
        self._compiled = Compiled(self._compute, "the training step")

    @property
    def needs_teacher(self) -> bool:
        return any("teacher_latents" in (term.wanted, DECODED_FROM.get(term.made)) for term in self._terms.values())

    @property
    def needs_adversary(self) -> bool:
        """Whether the adversarial term comes in at some step."""
        return self._terms.keys() != self._measured.keys()

    @property
    def distance_weights(self) -> dict[str, float]:
        """The weights of params.yaml, without schedules, of the terms that measure a distance.

        Their sum can be compared between any two steps. The adversarial term is none of them: its value is the size of
        its corrections, one by construction, and jumps where the term comes in.
        """
        return {name: self._weights[name] for name in self._measured}

    def weights_at(self, step: int) -> dict[str, float]:
        """The weight of each term that counts at update ``step``, in the order of the parameters."""
        weights = {name: self._weights[name] * term.factor(step) for name, term in self._terms.items()}
        return {name: weight for name, weight in weights.items() if weight > 0}

    def forward(
        self, frames_ntchw: Tensor, teacher_latents_ntchw: Tensor | None, *, keep_decoded: bool = False
    ) -> Outputs:
        """All terms but the adversarial one, for which the adversary has to see the decoded frames first.

        Args:
            frames_ntchw: (N, T, 3, H, W) in [0, 1].
            teacher_latents_ntchw: the teacher's latents of the same frames; None only if no term needs them.
            keep_decoded: return the decoded frames and their latents, too.
        """
        compute = self._compiled if TRAINING[frames_ntchw.device.type].compiled else self._compute
        return Outputs(*compute(frames_ntchw, teacher_latents_ntchw, keep_decoded))

    def _compute(
        self, frames: Tensor, teacher_latents: Tensor | None, keep_decoded: bool
    ) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:
        """The fields of ``Outputs``: a compiler takes no dataclass."""
        made: set[str] = {term.made for term in self._measured.values()}
        if keep_decoded:
            made.add("decoded")
        model = fused_training_2d if TRAINING[frames.device.type].layout == "planes" else fused_training
        tensors = {"frames": frames}
        if teacher_latents is not None:
            tensors["teacher_latents"] = teacher_latents
        if "latents" in made or "decoded" in made:
            tensors["latents"] = model.encode(self.student, frames)
        decodings = {name: tensors[source] for name, source in DECODED_FROM.items() if name in made}
        tensors.update(zip(decodings, self._decode(list(decodings.values())), strict=True))
        terms = {name: term.distance(tensors[term.made], tensors[term.wanted]) for name, term in self._measured.items()}
        return terms, tensors["decoded"] if keep_decoded else None, tensors["latents"] if keep_decoded else None

    def _decode(self, latents: Sequence[Tensor]) -> Sequence[Tensor]:
        """Each of several batches of latents; in one go on planes, which is half as much to compile."""
        if not latents or TRAINING[latents[0].device.type].layout == "volumes":
            return [fused_training.decode(self.student, each) for each in latents]
        clips = len(latents[0])
        images = fused_training_2d.decode(self.student, torch.cat(list(latents)))
        return [images[i * clips : (i + 1) * clips] for i in range(len(latents))]


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum over terms and clips, each with its weight: a scalar."""
    return torch.stack([weights[term] * values.sum() for term, values in terms.items()]).sum()
