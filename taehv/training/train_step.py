"""One optimizer step: accumulate the gradient over this process's slots, clip, update, average."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from taehv.config.batch_shares import micro_batches
from taehv.config.precision import PRECISIONS
from taehv.data.augment import Augmentation
from taehv.data.loader import SlotLoader
from taehv.losses.objective import Objective, Outputs, weighted_sum
from taehv.model import compilation
from taehv.model.formulations import TRAINING
from taehv.model.padding import to_float
from taehv.teachers.base import Teacher
from taehv.training.adversary import Adversary, Shown
from taehv.training.state import TrainingState

DTYPES: Mapping[str, torch.dtype] = {name: getattr(torch, kind.dtype) for name, kind in PRECISIONS.items()}
"""The dtype of weights and inputs; with bf16 the matrix products run in bfloat16 (autocast)."""


@dataclass(frozen=True)
class StepReport:
    """One step, over all processes."""

    loss: float
    """Weighted loss, mean over the global batch."""
    distance: float
    """The same with the weights of params.yaml alone and without the adversarial term: steps compare by it."""
    terms: dict[str, float]
    """Unweighted loss terms, mean over the global batch."""
    weights: dict[str, float]
    """The weight of each term in this step."""
    gradient_norm: float
    """L2 norm before clipping."""
    term_gradient_norms: dict[str, float]
    """L2 norm of each weighted term's own gradient; empty where it was not measured."""
    discriminator_loss: float | None
    """None where the adversarial term does not count yet."""
    learning_rates: dict[str, float]
    """By optimizer."""
    skipped: bool
    """The update was not applied, on any process, because loss or gradient was not finite."""
    slots_not_finite: tuple[int, ...]
    """The slots, of all processes, whose own loss was not finite; empty where only a gradient was not."""


class TrainStep:
    """Does the steps of one process. All processes call it with the same step numbers."""

    def __init__(
        self,
        accelerator: Accelerator,
        objective: Objective,
        state: TrainingState,
        teacher: Teacher | None,
        loader: SlotLoader,
        *,
        global_batch: int,
        per_device: int | None,
        dtype: torch.dtype,
        augmentation: Augmentation | None = None,
    ) -> None:
        """``per_device`` None stands for all slots of the process, until someone sets it."""
        self._accelerator = accelerator
        self._objective = objective
        self._distributed_objective = accelerator.prepare(objective)
        self._state = state
        self._teacher = teacher
        self._loader = loader
        self._global_batch = global_batch
        self.per_device = per_device or len(loader.slots)
        self._dtype = dtype
        self._augmentation = augmentation

    def __call__(self, step: int, *, measure_terms: bool = False) -> StepReport:
        """Do update number ``step`` (the first is 1); on request also measure each term's own gradient."""
        weights = self._objective.weights_at(step)
        adversary = self._state.adversary if "seraena" in weights else None
        frames = self._loader.frames(step)
        term_norms = self._term_gradient_norms(step, frames, weights, adversary) if measure_terms else {}
        own_sums, own_not_finite = self._accumulate_gradient(step, frames, weights, adversary)
        summed = self._accelerator.reduce(torch.cat([own_sums, own_not_finite]), reduction="sum")
        parameters = self._state.student.parameters()
        # Reduced gradients, and so their norms, are the same on every process: all of them skip, or none.
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self._state.optim.clip_grad_norm))
        # One wait for the GPU brings all of these numbers.
        numbers = summed.tolist()
        means = {term: numbers[i] / self._global_batch for i, term in enumerate(weights)}
        not_finite = numbers[len(weights) :]
        loss = sum(weights[term] * value for term, value in means.items())
        distance = sum(weight * means[term] for term, weight in self._objective.distance_weights.items())
        adversary_loss = adversary.reduce(self._accelerator) if adversary is not None else None
        skipped = not all(map(math.isfinite, (norm, loss, adversary_loss or 0.0)))
        if not skipped:
            self._state.optimizers.step(step)
            self._state.update_ema(step)
        self._state.optimizers.zero_grad()
        if adversary is not None:
            adversary.finish_step(skipped=skipped)
        rates = self._state.optimizers.learning_rates(step)
        slots = tuple(slot for slot, count in enumerate(not_finite) if count)
        return StepReport(loss, distance, means, weights, norm, term_norms, adversary_loss, rates, skipped, slots)

    @property
    def own_slots(self) -> int:
        """Clips that this process computes per step."""
        return len(self._loader.slots)

    def rehearse(self, step: int, per_device: int) -> None:
        """Compute the gradient of one micro-batch of ``step`` with as much memory taken as training will come to hold.

        For itself: processes need not do it together. The gradients have to be forgotten afterwards.

        Raises:
            RuntimeError: there is not enough memory.
        """
        weights = self._objective.weights_at(step)
        adversary = self._state.adversary if "seraena" in weights else None
        frames = self._loader.frames(step)
        reserved = self._memory_to_come(adversary)
        rows = range(per_device)
        terms, shown = self._terms(self._objective, step, frames, rows, adversary)
        self._accelerator.backward(weighted_sum(terms, weights))
        self._teach(adversary, step, rows, shown)
        del reserved

    def forget_gradients(self) -> None:
        """Undo a rehearsal, also one that failed."""
        self._state.optimizers.zero_grad()
        if self._state.adversary is not None:
            self._state.adversary.finish_step(skipped=True)

    def _memory_to_come(self, adversary: Adversary | None) -> Tensor:
        """As many bytes as the optimizers' state (twice the weights), a distributed wrapper's copy of the gradients
        and the adversary's memory will take."""
        weights = sum(parameter.nbytes for parameter in self._state.student.parameters())
        replay = adversary.replay_bytes if adversary is not None else 0
        return torch.ones(3 * weights + replay, dtype=torch.uint8, device=self._accelerator.device)

    def _accumulate_gradient(
        self, step: int, frames_uint8: Tensor, weights: Mapping[str, float], adversary: Adversary | None
    ) -> tuple[Tensor, Tensor]:
        """Leaves the whole batch's gradient in the parameters.

        Returns:
            The sum of each term over this process's slots, and for each slot of the global batch 1 where its loss, on
            this process, was not finite.
        """
        groups = micro_batches(range(len(frames_uint8)), self.per_device)
        # The distributed wrapper averages over processes; the gradient wanted is the sum over all slots / batch.
        scale = self._accelerator.num_processes / self._global_batch
        sums = torch.zeros(len(weights), dtype=torch.float64, device=frames_uint8.device)
        not_finite = sums.new_zeros(self._global_batch)
        for group in groups:
            with self._synchronise_if(group is groups[-1]):
                terms, shown = self._terms(self._distributed_objective, step, frames_uint8, group, adversary)
                self._accelerator.backward(weighted_sum(terms, weights) * scale)
            self._teach(adversary, step, group, shown)
            values = torch.stack([terms[term].detach().double() for term in weights])
            sums += values.sum(dim=1)
            slots = self._loader.slots
            not_finite[slots[group[0]] : slots[group[-1]] + 1] = (~values.isfinite().all(dim=0)).double()
        return sums, not_finite

    def _term_gradient_norms(
        self, step: int, frames_uint8: Tensor, weights: Mapping[str, float], adversary: Adversary | None
    ) -> dict[str, float]:
        """The norm of each weighted term's gradient over the whole batch: who pulls how hard, before clipping."""
        parameters = list(self._state.student.parameters())
        gradients = torch.zeros(
            len(weights), sum(map(torch.numel, parameters)), dtype=self._dtype, device=frames_uint8.device
        )
        compiled = TRAINING[frames_uint8.device.type].compiled
        # What a compiled graph keeps is good for one backward pass; uncompiled ones need more memory per clip.
        for group in micro_batches(range(len(frames_uint8)), 1 if compiled else self.per_device):
            with compilation.switched_off():
                terms, _ = self._terms(self._objective, step, frames_uint8, group, adversary)
            for row, (term, weight) in zip(gradients, weights.items(), strict=True):
                weighted = terms[term].sum() * (weight / self._global_batch)
                parts = torch.autograd.grad(weighted, parameters, retain_graph=True, materialize_grads=True)
                row += torch.cat([part.flatten() for part in parts])
        norms = self._accelerator.reduce(gradients, reduction="sum").norm(dim=1)
        return dict(zip(weights, norms.tolist(), strict=True))

    def _terms(
        self, objective: Objective, step: int, frames_uint8: Tensor, rows: Sequence[int], adversary: Adversary | None
    ) -> tuple[dict[str, Tensor], Shown | None]:
        """Each term of some of the slots, per clip, and what the adversary was shown of them."""
        frames = to_float(frames_uint8[rows[0] : rows[-1] + 1], self._dtype)
        if self._augmentation is not None:
            frames = self._augmentation(frames, step, [self._loader.slots[row] for row in rows])
        teacher_latents = self._teacher.encode(frames) if self._teacher is not None else None
        with self._accelerator.autocast():
            outputs: Outputs = objective(frames, teacher_latents, keep_decoded=adversary is not None)
            if adversary is None:
                return outputs.terms, None
            value, shown = adversary.term(outputs, frames)
        return outputs.terms | {"seraena": value}, shown

    def _teach(self, adversary: Adversary | None, step: int, rows: Sequence[int], shown: Shown | None) -> None:
        """Accumulate the discriminator's gradient over what it was shown of some of the slots."""
        if adversary is not None and shown is not None:
            with self._accelerator.autocast():
                adversary.accumulate(step, [adversary.slots[row] for row in rows], *shown)

    def _synchronise_if(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange gradients once per step, in the backward pass of their last micro-batch."""
        if last:
            return contextlib.nullcontext()
        no_sync: contextlib.AbstractContextManager[None] = self._accelerator.no_sync(self._distributed_objective)
        return no_sync
