"""Speed, GPU utilisation and the summary of a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator

from taehv.training.job import TrainingJob
from taehv.training.state import HistoryEntry, Progress, TrainingState
from taehv.training.step import StepReport


class Meter:
    """Counts what one process does between its start and now; a resumed run's speed is that of its last part."""

    def __init__(self, job: TrainingJob, accelerator: Accelerator) -> None:
        self._job = job
        self._accelerator = accelerator
        self._global_batch = job.params.active.batch.global_
        self._started = time.perf_counter()
        self._steps = 0
        self._training_seconds = 0.0
        self._utilisation: list[float] = []

    @contextlib.contextmanager
    def timing_a_step(self) -> Iterator[None]:
        """Only steps count as training time, not validation or checkpoints."""
        started = time.perf_counter()
        yield
        self._training_seconds += time.perf_counter() - started
        self._steps += 1

    @property
    def clips_per_second(self) -> float:
        """Trained clips per second of training time, over all processes."""
        return self._steps * self._global_batch / self._training_seconds if self._training_seconds else 0.0

    def training_metrics(self, report: StepReport) -> dict[str, float]:
        """What is tracked of a step."""
        utilisation = self._sample_gpu_utilisation()
        return {
            "train/loss": report.loss,
            **{f"train/{term}": value for term, value in report.terms.items()},
            "train/gradient_norm": report.gradient_norm,
            **{f"train/learning_rate_{name}": rate for name, rate in report.learning_rates.items()},
            "throughput/clips_per_second": self.clips_per_second,
            **({} if utilisation is None else {"throughput/gpu_utilisation_percent": utilisation}),
        }

    def postfix(self, report: StepReport, history: list[HistoryEntry]) -> dict[str, str]:
        """What stands behind the progress bar."""
        return {
            "loss": f"{report.loss:.4f}",
            "PSNR": f"{history[-1]['psnr']:.2f}",
            "clips/s": f"{self.clips_per_second:.1f}",
        }

    def window_done(self, progress: Progress) -> None:
        """Start a new window of loss averages; the old one's shares of each term are kept for the summary."""
        if progress.loss_count:
            weights = vars(self._job.params.loss)
            weighted = {t: weights[t] * total / progress.loss_count for t, total in progress.term_sums.items()}
            whole = sum(weighted.values())
            progress.loss_terms = {
                term: {"value": value / weights[term], "weighted": value, "share": value / whole if whole else 0.0}
                for term, value in weighted.items()
            }
        progress.loss_sum, progress.loss_count, progress.term_sums = 0.0, 0, {}

    def summary(self, state: TrainingState, stopped_early: str | None, oom_events: int) -> dict[str, Any]:
        """metrics.json."""
        job, progress = self._job, state.progress
        best = next(row for row in progress.history if row["step"] == progress.best_step)
        first, last = progress.history[0], progress.history[-1]
        used = self._utilisation
        return {
            "schema": 1,
            "stage": job.stage,
            "steps": progress.step,
            "total_steps": job.total_steps,
            "stopped_early": stopped_early,
            "best": {"step": best["step"], "psnr_db": best["psnr"], "ssim": best["ssim"]},
            "step0_psnr_db": first["psnr"] if first["step"] == 0 else None,
            "final": {"step": last["step"], "psnr_db": last["psnr"]},
            "counters": {"skipped_steps": progress.skipped_steps, "oom_events": oom_events},
            "gpu_utilisation_percent": sum(used) / len(used) if used else None,
            "loss_terms": progress.loss_terms,
            "batch": {
                "global": self._global_batch,
                "processes": self._accelerator.num_processes,
                "per_device": job.profile.per_device,
            },
            "seed": job.params.seed,
            "params_sha256": job.params_sha256,
            "dataset_sha256": job.dataset_sha256,
            "fingerprint": job.fingerprint,
            "resumed_from": progress.resumed_from,
            "seconds": round(time.perf_counter() - self._started, 1),
            "clips_per_second": round(self.clips_per_second, 2),
            "device": device_name(self._accelerator.device),
        }

    def _sample_gpu_utilisation(self) -> float | None:
        """Percent, of this process's GPU; None on a CPU."""
        if self._accelerator.device.type != "cuda":
            return None
        self._utilisation.append(float(torch.cuda.utilization(self._accelerator.device)))
        return self._utilisation[-1]


def device_name(device: torch.device) -> str:
    """The GPU's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
