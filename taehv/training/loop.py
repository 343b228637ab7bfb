"""The training loop that both training stages share."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from taehv.data.sampler import SlotSampler
from taehv.data.store import ClipStore
from taehv.errors import UserError
from taehv.losses.objective import Objective
from taehv.machine import available_cores
from taehv.metrics import Lpips, lpips_backbone_file
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS
from taehv.teachers import load_teacher
from taehv.training import outputs
from taehv.training.adversary import Adversary
from taehv.training.batches import SlotLoader
from taehv.training.checkpoint import keep_newest, save_checkpoint
from taehv.training.console import logging_redirect_tqdm, progress_bar
from taehv.training.job import TrainingJob
from taehv.training.meter import Meter
from taehv.training.recorder import Recorder
from taehv.training.resume import restore
from taehv.training.schedule import is_due
from taehv.training.slots import slots_of_rank
from taehv.training.state import HistoryEntry, TrainingState
from taehv.training.step import DTYPES, StepReport, TrainStep
from taehv.training.validation import Validator

log = logging.getLogger(__name__)

Stop = Literal["patience", "aborted_at_gate"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended; the numbers of metrics.json."""

    state: TrainingState
    stopped_early: Stop | None
    metrics: dict[str, Any]


def start_accelerator(job: TrainingJob) -> Accelerator:
    """The processes of this run, checked: a launcher that silently starts fewer than it was asked for is an error."""
    threads = job.profile.threads or max(1, available_cores() // job.profile.processes)
    torch.set_num_threads(threads)
    mixed = "bf16" if job.params.active.precision == "bf16" else "no"
    accelerator = Accelerator(cpu=job.profile.gpus == 0, mixed_precision=mixed)
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != expected:
        raise UserError(
            f"{accelerator.num_processes} training process(es) found each other, but {expected} were started; "
            "start the stage through its profile's launcher (python -m taehv.launch --profile NAME)"
        )
    return accelerator


class Trainer:
    """One run: built from a job, it trains to the end, or to where it has to stop."""

    def __init__(self, job: TrainingJob, accelerator: Accelerator, recorder: Recorder) -> None:
        self.job = job
        self.accelerator = accelerator
        self.recorder = recorder
        self.work = job.work
        scale = job.params.active
        self.scale = scale
        set_seed(job.params.seed)
        variant = VARIANTS[scale.model.variant]
        dtype = DTYPES[scale.precision]
        student = create_model(variant, scale.model.width, scale.model.init, job.params.seed)
        slots = slots_of_rank(scale.batch.global_, accelerator.num_processes, accelerator.process_index)
        objective = Objective(student, job.params.loss, scale.perceptual, scale.seraena)
        adversary = None
        if objective.needs_adversary:
            adversary = Adversary(
                scale.seraena,
                variant,
                seed=job.params.seed,
                slots=slots,
                global_batch=scale.batch.global_,
                device=accelerator.device,
                dtype=dtype,
            )
        self.state = TrainingState(student.to(accelerator.device, dtype), scale.optim, adversary)
        teacher = load_teacher(scale.teacher.name, job.teacher, variant).to(accelerator.device, dtype)
        clips = ClipStore.open(job.clips, "train")
        sampler = SlotSampler(
            clips.records,
            seed=job.params.seed,
            global_batch=scale.batch.global_,
            height=scale.data.height,
            width=scale.data.width,
            frames=scale.data.frames,
            horizontal_flip=scale.data.horizontal_flip,
        )
        self.loader = SlotLoader(clips, sampler, slots, accelerator.device)
        self.train_step = TrainStep(
            accelerator,
            objective,
            self.state,
            teacher if objective.needs_teacher else None,
            self.loader,
            global_batch=scale.batch.global_,
            per_device=job.profile.per_device,
            dtype=dtype,
        )
        self.validate = Validator(
            accelerator,
            ClipStore.open(job.clips, "val"),
            job.profile.validation_batch,
            dtype,
            Lpips("alex", accelerator.device) if lpips_backbone_file("alex") is not None else None,
        )
        self.meter = Meter(job, accelerator)

    def run(self) -> Outcome:
        """Train; returns when the last step is done, patience is exhausted, or the gate is out of reach."""
        log.info("%s: %s", self.job.stage, restore(self.state, self.job, (self.work.checkpoints, self._rolling)))
        if self.validate.lpips is None:
            log.info("LPIPS is not measured: its backbone weights are not on this machine")
        progress = self.state.progress
        bar = progress_bar(
            self.job.stage, progress.step, self.job.total_steps, enabled=self.accelerator.is_main_process
        )
        with bar, logging_redirect_tqdm([logging.getLogger("taehv")]):
            if progress.best_psnr is None:
                self._validate()
            while self._stop_reason() is None and progress.step < self.job.total_steps:
                report = self._do_step(progress.step + 1)
                self._do_what_is_due(report)
                bar.set_postfix(self.meter.postfix(report, progress.history), refresh=False)
                bar.update()
        self.loader.close()
        if progress.best_psnr is None:
            raise UserError(f"{self.job.stage}: no validation gave a finite PSNR; see {self.work.history}")
        stop = self._stop_reason()
        if stop is not None:
            log.info("stopped early at step %d: %s", progress.step, _STOP_REASONS[stop])
        return Outcome(self.state, stop, self.meter.summary(self.state, stop, outputs.oom_events(self.work)))

    def _do_step(self, step: int) -> StepReport:
        measure = is_due(step, self.job.profile.log_terms_every, self.job.total_steps)
        try:
            with self.meter.timing_a_step():
                report = self.train_step(step, measure_terms=measure)
        except torch.OutOfMemoryError as error:
            outputs.count_oom_event(self.work)
            raise self._out_of_memory(step) from error
        progress = self.state.progress
        progress.step = step
        if report.skipped:
            progress.skipped_steps += 1
            shown = ", ".join(str(draw.clip_id) for draw in self.loader.draws(step))
            log.warning("step %d skipped: loss or gradient is not finite (clips %s)", step, shown)
        else:
            progress.loss_sum += report.loss
            progress.loss_count += 1
            for term, value in report.terms.items():
                progress.term_sums[term] = progress.term_sums.get(term, 0.0) + value
                weighted = report.weights[term] * value
                progress.weighted_sums[term] = progress.weighted_sums.get(term, 0.0) + weighted
        if report.term_gradient_norms:
            progress.term_gradient_norms = report.term_gradient_norms
        return report

    def _do_what_is_due(self, report: StepReport) -> None:
        """Logging, validation and checkpoints after a step."""
        step, last = self.state.progress.step, self.job.total_steps
        if is_due(step, self.job.profile.log_every, last) or report.term_gradient_norms:
            self.recorder.metrics(step, self.meter.training_metrics(report))
        if is_due(step, self.scale.validation.every, last):
            self._validate()
        if is_due(step, self.scale.checkpoint.every, last):
            save_checkpoint(self.work.checkpoints, self.state, self.job, self.accelerator)
        elif is_due(step, self.job.profile.checkpoint_every, last):
            save_checkpoint(self._rolling, self.state, self.job, self.accelerator)
            if self.accelerator.is_main_process:
                keep_newest(self._rolling, self.job.profile.keep_checkpoints)

    def _validate(self) -> None:
        """Measure, write the history, keep the best model. All processes see the same numbers and decide alike."""
        progress = self.state.progress
        train_loss = progress.loss_sum / progress.loss_count if progress.loss_count else None
        entry = self.validate(self.state, train_loss)
        self.meter.window_done(progress)
        progress.history = [row for row in progress.history if row["step"] < progress.step] + [entry]
        is_best = math.isfinite(entry["psnr"]) and (progress.best_psnr is None or entry["psnr"] > progress.best_psnr)
        if is_best:
            progress.best_psnr, progress.best_step, progress.validations_without_gain = entry["psnr"], progress.step, 0
        else:
            progress.validations_without_gain += 1
        if self.accelerator.is_main_process:
            outputs.write_history(self.work, progress.history)
            if is_best:
                outputs.write_best_model(self.work, self.state, self.job, entry)
        self.recorder.metrics(progress.step, validation_metrics(entry))
        log.info("%s", _describe(entry, is_best))

    def _stop_reason(self) -> Stop | None:
        """Why to stop before the last step: a function of the state, so that a resumed run stops at the same step."""
        progress = self.state.progress
        if self.job.stage == "a800_test" and self._hopeless_at_gate():
            return "aborted_at_gate"
        if progress.validations_without_gain >= self.job.params.validation.early_stopping_patience:
            return "patience"
        return None

    def _hopeless_at_gate(self) -> bool:
        gate_step, limit = self.job.params.gate.step, self.job.params.a800_test.abort_below_db
        return any(row["step"] == gate_step and not row["psnr"] > limit for row in self.state.progress.history)

    @property
    def _rolling(self) -> Path:
        return self.work.root / "rolling"

    def _out_of_memory(self, step: int) -> UserError:
        smaller = max(1, self.job.profile.per_device // 2)
        return UserError(
            f"the GPU ran out of memory at step {step} with per_device: {self.job.profile.per_device}. Set per_device: "
            f"{smaller} in profiles/{self.job.profile.name}.yaml and run again: the result, and so the work done up to "
            "the last checkpoint, stays the same"
        )


_STOP_REASONS: dict[Stop, str] = {
    "patience": "validation PSNR has not improved for validation.early_stopping_patience validations",
    "aborted_at_gate": "validation PSNR at the gate step is not above a800_test.abort_below_db",
}


def validation_metrics(entry: HistoryEntry) -> dict[str, float]:
    """A history row as tracked metrics."""
    flat = {f"val/{name}": value for name, value in entry.items() if isinstance(value, float)}
    return flat | {f"val/psnr/{source}": value for source, value in entry["psnr_by_source"].items()}


def _describe(entry: HistoryEntry, is_best: bool) -> str:
    loss = "" if entry["train_loss"] is None else f"  train loss {entry['train_loss']:.4f}"
    best = "  (best)" if is_best else ""
    return f"step {entry['step']:>6}  PSNR {entry['psnr']:.2f} dB  SSIM {entry['ssim']:.4f}{loss}{best}"
