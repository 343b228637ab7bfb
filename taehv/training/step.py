"""One optimiser step: accumulate the gradient over this process's slots, clip, update, average."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from taehv.losses.objective import Objective
from taehv.teachers import Teacher
from taehv.training.batches import SlotLoader
from taehv.training.slots import micro_batches
from taehv.training.state import TrainingState

DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}
"""The dtype of weights and inputs; with bf16 the matrix products run in bfloat16 (autocast)."""


@dataclass(frozen=True)
class StepReport:
    """One step, over all processes."""

    loss: float
    """Weighted loss, mean over the global batch."""
    terms: dict[str, float]
    """Unweighted loss terms, mean over the global batch."""
    gradient_norm: float
    """L2 norm before clipping."""
    learning_rates: dict[str, float]
    """By optimiser."""
    skipped: bool
    """The update was not applied, on any process, because loss or gradient was not finite."""


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
        per_device: int,
        dtype: torch.dtype,
    ) -> None:
        self._accelerator = accelerator
        self._objective = objective
        self._distributed_objective = accelerator.prepare(objective)
        self._state = state
        self._teacher = teacher
        self._loader = loader
        self._global_batch = global_batch
        self._per_device = per_device
        self._dtype = dtype

    def __call__(self, step: int) -> StepReport:
        """Do update number ``step`` (the first is 1)."""
        term_sums = self._accumulate_gradient(self._loader.frames(step))
        term_sums = self._accelerator.reduce(term_sums, reduction="sum")
        parameters = self._state.student.parameters()
        # The reduced gradient, and so its norm, is the same on every process: all of them skip, or none.
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self._state.optim.clip_grad_norm))
        means = dict(zip(self._objective.weights, (term_sums / self._global_batch).tolist(), strict=True))
        loss = sum(self._objective.weights[term] * value for term, value in means.items())
        skipped = not (math.isfinite(norm) and math.isfinite(loss))
        if not skipped:
            self._state.optimizers.step(step)
            self._state.update_ema(step)
        self._state.optimizers.zero_grad()
        return StepReport(loss, means, norm, self._state.optimizers.learning_rates(step), skipped)

    def _accumulate_gradient(self, frames_uint8: Tensor) -> Tensor:
        """Leaves the whole batch's gradient in the parameters; returns the sum of each term over own slots."""
        groups = micro_batches(range(len(frames_uint8)), self._per_device)
        # The distributed wrapper averages over processes; the gradient wanted is the sum over all slots / batch.
        scale = self._accelerator.num_processes / self._global_batch
        sums = torch.zeros(len(self._objective.weights), dtype=torch.float64, device=frames_uint8.device)
        for group in groups:
            frames = to_float(frames_uint8[group[0] : group[-1] + 1], self._dtype)
            latents = self._teacher.encode(frames) if self._teacher is not None else None
            with self._synchronise_if(group is groups[-1]):
                with self._accelerator.autocast():
                    terms = self._distributed_objective(frames, latents)
                self._accelerator.backward(self._objective.weighted_sum(terms) * scale)
            sums += torch.stack([values.detach().sum(dtype=torch.float64) for values in terms.values()])
        return sums

    def _synchronise_if(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange gradients once per step, in the backward pass of their last micro-batch."""
        if last:
            return contextlib.nullcontext()
        no_sync: contextlib.AbstractContextManager[None] = self._accelerator.no_sync(self._distributed_objective)
        return no_sync


def to_float(frames_uint8: Tensor, dtype: torch.dtype) -> Tensor:
    """0..255 to [0, 1]."""
    return frames_uint8.to(dtype).div_(255)
