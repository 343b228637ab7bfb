"""Validation on the fixed clips: the same clips, in the same way, whatever the number of processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from taehv.config.params import BestMetric
from taehv.data.clip_store import ClipStore
from taehv.losses.metrics import HISTORY_METRICS, ClipMetric, ClipScores, load_frames, score_clips
from taehv.model.taehv import TAEHV
from taehv.runtime.failpoints import Failpoint, failpoint
from taehv.training.state import HistoryEntry, TrainingState


def is_better(entry: HistoryEntry, best: HistoryEntry | None, metric: BestMetric) -> bool:
    """Whether a validation gives a new best model; a number that is not finite never does."""
    if not math.isfinite(entry[metric]):
        return False
    if best is None:
        return True
    less_is_better = next(known.less_is_better for known in HISTORY_METRICS if known.in_history == metric)
    return entry[metric] < best[metric] if less_is_better else entry[metric] > best[metric]


@dataclass(frozen=True)
class Validator:
    """Measures a state's EMA weights, and the PSNR of its raw weights."""

    accelerator: Accelerator
    store: ClipStore
    batch: int
    """Clips per forward pass; changes memory and speed only."""
    dtype: torch.dtype
    metrics: Mapping[str, ClipMetric]
    """Those of HISTORY_METRICS that this machine has what it takes for."""

    @property
    def clips_at_once(self) -> int:
        """Of the largest forward pass that there is."""
        return min(self.batch, len(range(0, len(self.store), self.accelerator.num_processes)))

    @property
    def not_measured(self) -> list[str]:
        """Titles of the metrics that are null in the history, for want of their weights on this machine."""
        return [metric.title for metric in HISTORY_METRICS if metric.name not in self.metrics]

    def __call__(self, state: TrainingState, train_loss: float | None) -> HistoryEntry:
        """One row of the validation history, equal on every process."""
        averaged = self._measure(state.ema, self.metrics)
        raw = self._measure(state.student, {"psnr": self.metrics["psnr"]})
        means = {
            str(metric.in_history): metric.over_clips(averaged[metric.name]) if metric.name in averaged else None
            for metric in HISTORY_METRICS
        }
        sources = np.array([record.source for record in self.store.records])
        psnr = averaged["psnr"].numpy()
        entry = {
            "step": state.progress.step,
            # NumPy's sum, whose last digit may be another one than torch's: equal runs have equal histories.
            "psnr": float(psnr.mean()),
            "psnr_raw": float(raw["psnr"].mean()),
            "psnr_pooled": means["psnr_pooled"],
            "psnr_worst_clip": float(psnr.min()),
            "psnr_by_source": {str(name): float(psnr[sources == name].mean()) for name in self.store.sources},
        }
        return entry | {key: mean for key, mean in means.items() if key not in entry} | {"train_loss": train_loss}

    def _measure(self, model: TAEHV, metrics: Mapping[str, ClipMetric]) -> ClipScores:
        """Each metric of every clip (clips,), float64 on the CPU. Each process measures every world-size-th clip."""
        device = self.accelerator.device
        own = range(self.accelerator.process_index, len(self.store), self.accelerator.num_processes)
        model.eval()

        def round_trip(frames: Tensor) -> Tensor:
            with self.accelerator.autocast():
                return model.decode(model.encode(frames)).to(self.dtype)

        scores = score_clips(
            round_trip, metrics, own, self.batch, lambda some: load_frames(self.store, some, device, self.dtype)
        )
        values = {name: torch.zeros(len(self.store), dtype=torch.float64, device=device) for name in metrics}
        for name, column in scores.items():
            values[name][list(own)] = column.to(device)
        # Every clip was measured once, all other processes hold 0 for it: the sum is exact in any order.
        summed = {name: self.accelerator.reduce(value, reduction="sum").cpu() for name, value in values.items()}
        failpoint(Failpoint.VALIDATION)
        return summed
