"""Speed, GPU utilisation and the summary of a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator

from taehv.training.run_spec import RunSpec
from taehv.training.state import HistoryEntry, Progress, TrainingState
from taehv.training.train_step import StepReport


class RunMetrics:
    """Counts what one process does between its start and now; a resumed run's speed is that of its last part."""

    def __init__(self, spec: RunSpec, accelerator: Accelerator, per_device: int) -> None:
        self._spec = spec
        self._per_device = per_device
        self._accelerator = accelerator
        self._global_batch = spec.params.active.batch.global_
        self._started = time.perf_counter()
        self._steps = 0
        self._training_seconds = 0.0
        self._utilisation: list[float] = []
        self._waits_told = 0.0, 0.0
        """Seconds of training, and of waiting for clips, at the last ``training_metrics``."""

    @contextlib.contextmanager
    def timing_a_step(self) -> Iterator[None]:
        """Only steps count as training time, not validation or checkpoints."""
        started = time.perf_counter()
        yield
        self._training_seconds += time.perf_counter() - started
        self._steps += 1

    @property
    def steps(self) -> int:
        """Done by this process."""
        return self._steps

    @property
    def clips_per_second(self) -> float:
        """Trained clips per second of training time, over all processes."""
        return self._steps * self._global_batch / self._training_seconds if self._training_seconds else 0.0

    def training_metrics(self, report: StepReport, seconds_waited: float) -> dict[str, float]:
        """What is tracked of a step.

        Args:
            report: of the step.
            seconds_waited: how long this process has waited for clips, in all.
        """
        utilisation = self._sample_gpu_utilisation()
        return {
            "train/loss": report.loss,
            **{f"train/{term}": value for term, value in report.terms.items()},
            **{f"train/weighted/{term}": report.weights[term] * value for term, value in report.terms.items()},
            "train/gradient_norm": report.gradient_norm,
            **{f"train/gradient_norm/{term}": norm for term, norm in report.term_gradient_norms.items()},
            **{f"train/gradient_share/{t}": share for t, share in share_of_sum(report.term_gradient_norms).items()},
            **({} if report.discriminator_loss is None else {"train/discriminator_loss": report.discriminator_loss}),
            **{f"train/learning_rate_{name}": rate for name, rate in report.learning_rates.items()},
            "throughput/clips_per_second": self.clips_per_second,
            "throughput/data_wait_share": self._data_wait_share(seconds_waited),
            **({} if utilisation is None else {"throughput/gpu_utilisation_percent": utilisation}),
        }

    def postfix(self, report: StepReport, history: list[HistoryEntry]) -> dict[str, str]:
        """What stands behind the progress bar."""
        return {
            "loss": f"{report.loss:.4f}",
            "PSNR": f"{history[-1]['psnr']:.2f}",
            "clips/s": f"{self.clips_per_second:.1f}",
        }

    @staticmethod
    def count(progress: Progress, report: StepReport) -> None:
        """Add an applied step to the window's sums."""
        progress.loss_sum += report.distance
        progress.loss_count += 1
        for term, value in report.terms.items():
            progress.term_sums[term] = progress.term_sums.get(term, 0.0) + value
            weighted = report.weights[term] * value
            progress.weighted_sums[term] = progress.weighted_sums.get(term, 0.0) + weighted
        if report.term_gradient_norms:
            progress.term_gradient_norms = report.term_gradient_norms

    def window_done(self, progress: Progress) -> None:
        """Start a new window of loss averages; the old one's shares of each term are kept for the summary."""
        if progress.loss_count:
            steps = progress.loss_count
            shares, pulls = share_of_sum(progress.weighted_sums), share_of_sum(progress.term_gradient_norms)
            progress.loss_terms = {
                term: {
                    "value": progress.term_sums[term] / steps,
                    "weighted": weighted / steps,
                    "share": shares[term],
                    **({"gradient_share": pulls[term]} if term in pulls else {}),
                }
                for term, weighted in progress.weighted_sums.items()
            }
        progress.loss_sum, progress.loss_count = 0.0, 0
        progress.term_sums, progress.weighted_sums = {}, {}

    def summary(self, state: TrainingState, stopped_early: str | None, oom_events: int) -> dict[str, Any]:
        """summary.json."""
        spec, progress = self._spec, state.progress
        best = next(row for row in progress.history if row["step"] == progress.best_step)
        first, last = progress.history[0], progress.history[-1]
        used = self._utilisation
        return {
            "schema": 1,
            "stage": spec.stage,
            "steps": progress.step,
            "total_steps": spec.total_steps,
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
                "per_device": self._per_device,
            },
            "seed": spec.params.seed,
            "params_sha256": spec.params_sha256,
            "dataset_sha256": spec.dataset.sha256,
            "fingerprint": spec.fingerprint,
            "resumed_from": progress.resumed_from,
            "seconds": round(time.perf_counter() - self._started, 1),
            "clips_per_second": round(self.clips_per_second, 2),
            "device": device_name(self._accelerator.device),
        }

    def _data_wait_share(self, seconds_waited: float) -> float:
        """The share of the steps since the last call that went into waiting for clips, on this process."""
        trained, waited = self._waits_told
        self._waits_told = self._training_seconds, seconds_waited
        since = self._training_seconds - trained
        return min((seconds_waited - waited) / since, 1.0) if since else 0.0

    def _sample_gpu_utilisation(self) -> float | None:
        """Percent, of this process's GPU; None on a CPU, and where it cannot be measured."""
        if self._accelerator.device.type != "cuda":
            return None
        utilisation = gpu_utilisation(self._accelerator.device)
        if utilisation is not None:
            self._utilisation.append(utilisation)
        return utilisation


def gpu_utilisation(device: torch.device) -> float | None:
    """Percent; None where the driver does not measure it (a part of a GPU, MIG) or its library is not there."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return None
    try:
        return float(torch.cuda.utilization(device))
    except pynvml.NVMLError:
        return None


def share_of_sum(values: Mapping[str, float]) -> dict[str, float]:
    """Each value's part of their sum."""
    whole = sum(values.values())
    return {name: value / whole if whole else 0.0 for name, value in values.items()}


def device_name(device: torch.device) -> str:
    """The GPU's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
