"""Everything that a training run is at one moment: what a checkpoint holds and a resumed run gets back."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from taehv.config.params import Optim
from taehv.model.taehv import TAEHV
from taehv.training.adversary import Adversary
from taehv.training.optimizers import Optimizers
from taehv.training.schedule import ema_decay

HistoryEntry = dict[str, Any]
"""One validation: a row of validation_history.json."""


@dataclass
class Progress:
    """The part of the state that is numbers and text."""

    step: int = 0
    """Updates done."""
    best_psnr: float | None = None
    """Of ``best_step``, for whoever reads a checkpoint; which step that is, ``validation.best_metric`` decides."""
    best_step: int | None = None
    validations_without_gain: int = 0
    skipped_steps: int = 0
    """Updates not applied because loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    loss_average: float | None = None
    """Running average of each step's distance; see StepReport and taehv.training.divergence."""
    loss_sum: float = 0.0
    """Sum of the steps' distances since the last validation, and of how many."""
    loss_count: int = 0
    term_sums: dict[str, float] = field(default_factory=dict)
    """Sums of the unweighted loss terms since the last validation."""
    weighted_sums: dict[str, float] = field(default_factory=dict)
    """The same, weighted as in each step."""
    term_gradient_norms: dict[str, float] = field(default_factory=dict)
    """Of each weighted term, where it was last measured."""
    loss_terms: dict[str, dict[str, float]] = field(default_factory=dict)
    """Each term over the window that ended with the last validation; see RunMetrics.window_done."""
    history: list[HistoryEntry] = field(default_factory=list)
    journal_position: int = 0
    """Events that the recorder had kept when this state was saved."""
    resumed_from: dict[str, Any] | None = None
    """The stage and step of another stage's checkpoint that this run started from."""


class TrainingState:
    """Student, its moving average, optimizer, adversary (where there is one) and progress."""

    def __init__(self, student: TAEHV, optim: Optim, adversary: Adversary | None = None) -> None:
        self.student = student
        self.ema = copy.deepcopy(student).requires_grad_(False).eval()
        self.optim = optim
        self.optimizers = Optimizers(student, optim)
        self.adversary = adversary
        self.progress = Progress()
        self.best_weights: dict[str, Tensor] | None = None
        """The averaged weights of ``progress.best_step``, on the CPU; replaced, never changed."""

    def keep_as_best(self) -> None:
        """Remember the averaged weights of now as the best ones."""
        self.best_weights = {
            name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in self.ema.state_dict().items()
        }

    @torch.no_grad()
    def update_ema(self, step: int) -> None:
        """Move the averaged weights towards the student's after update ``step``."""
        averaged: list[Tensor] = list(self.ema.parameters())
        current: list[Tensor] = list(self.student.parameters())
        torch._foreach_lerp_(averaged, current, 1.0 - ema_decay(self.optim, step))
