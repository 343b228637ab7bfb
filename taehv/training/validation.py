"""Validation on the fixed clips: the same clips, in the same way, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from taehv.config.batch_shares import micro_batches
from taehv.data.clip_store import ClipStore
from taehv.losses.metrics import Lpips, mse_per_clip, pooled_psnr, psnr_per_clip, ssim_per_clip
from taehv.model.padding import to_float
from taehv.model.taehv import TAEHV
from taehv.training.state import HistoryEntry, TrainingState

ClipMetric = Callable[[Tensor, Tensor], Tensor]
"""Decoded and original frames (N, T, 3, H, W) to one number per clip (N,)."""


@dataclass(frozen=True)
class Validator:
    """Measures a state's EMA weights, and its raw weights' PSNR beside them."""

    accelerator: Accelerator
    store: ClipStore
    batch: int
    """Clips per forward pass; changes memory and speed only."""
    dtype: torch.dtype
    lpips: Lpips | None
    """None where the backbone's weights are not on this machine."""

    @property
    def clips_at_once(self) -> int:
        """Of the largest forward pass that there is."""
        return min(self.batch, len(range(0, len(self.store), self.accelerator.num_processes)))

    def __call__(self, state: TrainingState, train_loss: float | None) -> HistoryEntry:
        """One row of the validation history, equal on every process."""
        metrics: dict[str, ClipMetric] = {"psnr": psnr_per_clip, "mse": mse_per_clip, "ssim": ssim_per_clip}
        if self.lpips is not None:
            metrics["lpips"] = self.lpips.per_clip
        averaged = self._measure(state.ema, metrics)
        raw = self._measure(state.student, {"psnr": psnr_per_clip})
        sources = np.array([record.source for record in self.store.records])
        psnr = averaged["psnr"].numpy()
        return {
            "step": state.progress.step,
            "psnr": float(psnr.mean()),
            "psnr_raw": float(raw["psnr"].mean()),
            "psnr_pooled": pooled_psnr(averaged["mse"]),
            "psnr_worst_clip": float(psnr.min()),
            "psnr_by_source": {str(name): float(psnr[sources == name].mean()) for name in self.store.sources},
            "ssim": float(averaged["ssim"].mean()),
            "lpips": float(averaged["lpips"].mean()) if self.lpips is not None else None,
            "train_loss": train_loss,
        }

    @torch.no_grad()
    def _measure(self, model: TAEHV, metrics: dict[str, ClipMetric]) -> dict[str, Tensor]:
        """Each metric of every clip (clips,), float64 on the CPU. Each process measures every world-size-th clip."""
        device = self.accelerator.device
        values = {name: torch.zeros(len(self.store), dtype=torch.float64, device=device) for name in metrics}
        own = range(self.accelerator.process_index, len(self.store), self.accelerator.num_processes)
        model.eval()
        for clip_ids in micro_batches(own, self.batch):
            stored = np.stack([self.store.clip(clip_id) for clip_id in clip_ids])
            frames = to_float(torch.from_numpy(stored).to(device), self.dtype)
            with self.accelerator.autocast():
                decoded = model.decode(model.encode(frames))
            for name, metric in metrics.items():
                values[name][list(clip_ids)] = metric(decoded.to(self.dtype), frames).double()
        # Every clip was measured once, all other processes hold 0 for it: the sum is exact in any order.
        return {name: self.accelerator.reduce(value, reduction="sum").cpu() for name, value in values.items()}
