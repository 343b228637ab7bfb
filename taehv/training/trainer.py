"""The training loop that both training stages share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol

import torch
from accelerate import Accelerator

from taehv.runtime.errors import Interrupted, UserError
from taehv.runtime.failpoints import Failpoint, failpoint
from taehv.training import divergence, run_files
from taehv.training.auto_batch_size import is_out_of_memory, largest_that_fits, out_of_memory
from taehv.training.build import assemble
from taehv.training.checkpoint_writer import CheckpointWriter, delete_unfinished, newest_first
from taehv.training.console import logging_redirect_tqdm, progress_bar
from taehv.training.interruption import EXIT_CODES, StopRequests
from taehv.training.resume import restore
from taehv.training.run_metrics import RunMetrics
from taehv.training.run_spec import RunSpec
from taehv.training.schedule import is_due
from taehv.training.state import HistoryEntry, TrainingState
from taehv.training.train_step import StepReport
from taehv.training.validation import is_better


class Recorder(Protocol):
    """Takes metrics by step; the stage decides where they go."""

    @property
    def kept_at_start(self) -> int:
        """How many events there were, from earlier executions, when this one began."""
        ...

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def keep(self) -> int:
        """Put on disk what was recorded so far, and say how many events that is."""
        ...


class NullRecorder:
    """For the processes that do not report: all but the first."""

    kept_at_start = 0

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing: the first process reports for all."""

    def keep(self) -> int:
        """Nothing is kept."""
        return 0


log = logging.getLogger(__name__)

Stop = Literal["patience", "aborted_at_gate"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    state: TrainingState
    stopped_early: Stop | None
    summary: dict[str, Any]
    """The numbers of summary.json."""
    steps_here: int
    """How many of the run's steps this process did; the others are an earlier one's."""


class Trainer:
    """One run: built from its specification, it trains to the end, or to where it has to stop."""

    def __init__(
        self,
        spec: RunSpec,
        accelerator: Accelerator,
        recorder: Recorder,
        stop_requests: StopRequests | None = None,
        after_validation: Callable[[], None] | None = None,
    ) -> None:
        """``after_validation`` is called on this process whenever a validation has been recorded."""
        self.spec = spec
        self.accelerator = accelerator
        self.recorder = recorder
        self.work = spec.work
        self.scale = spec.params.active
        self.stop_requests = stop_requests or StopRequests()
        self.after_validation = after_validation
        parts = assemble(spec, accelerator)
        self.state, self.loader = parts.state, parts.loader
        self.train_step, self.validate = parts.train_step, parts.validate
        self.checkpoints = CheckpointWriter(spec, accelerator.process_index, accelerator.num_processes)
        self._last_saved: tuple[int, Path] | None = None
        """Step and folder of the newest checkpoint of this process."""

    def run(self) -> Outcome:
        """Train; returns when the last step is done, patience is exhausted, or the gate is out of reach.

        Raises:
            Interrupted: someone asked to stop; there is a checkpoint of the last step, unless it was skipped.
            DivergenceError: the numbers have gone wrong.
        """
        self._restore()
        if self.spec.profile.per_device == "auto":
            self.train_step.per_device = largest_that_fits(self.train_step, self.accelerator, self.spec.total_steps)
        self.run_metrics = RunMetrics(self.spec, self.accelerator, self.train_step.per_device)
        progress, main = self.state.progress, self.accelerator.is_main_process
        bar = progress_bar(self.spec.stage, progress.step, self.spec.total_steps, enabled=main)
        with bar, logging_redirect_tqdm([logging.getLogger("taehv")]), closing(self.loader), closing(self.checkpoints):
            if not self._has_measured_its_start():
                self._validate()
            while self._stop_reason() is None and progress.step < self.spec.total_steps:
                self._leave_if_asked()
                report = self._do_step(progress.step + 1)
                self._do_what_is_due(report)
                bar.set_postfix(self.run_metrics.postfix(report, progress.history), refresh=False)
                bar.update()
            self._save_an_early_end()
        if progress.best_step is None:
            metric = self.spec.params.validation.best_metric.upper()
            raise UserError(f"{self.spec.stage}: no validation gave a finite {metric}; see {self.work.history}")
        stop = self._stop_reason()
        if stop is not None:
            log.info("stopped early at step %d: %s", progress.step, _STOP_REASONS[stop])
        summary = self.run_metrics.summary(self.state, stop, run_files.oom_events(self.work))
        return Outcome(self.state, stop, summary, self.run_metrics.steps)

    def _restore(self) -> None:
        """Find where to start, and bring the files of the work folder to that point."""
        folders = (self.work.checkpoints, self._rolling)
        if self.accelerator.is_main_process:
            delete_unfinished(folders)
        self.accelerator.wait_for_everyone()
        log.info("%s: %s", self.spec.stage, restore(self.state, self.spec, folders))
        self._check_that_all_start_at_one_step()
        for title in self.validate.not_measured:
            log.info("%s is not measured: its backbone weights are not on this machine", title)
        if self.accelerator.is_main_process and self.state.best_weights is not None:
            run_files.write_history(self.work, self.state.progress.history)
            run_files.write_best_model(self.work, self.state, self.spec)
        kept, saved = self.recorder.kept_at_start, self.state.progress.journal_position
        if self.accelerator.is_main_process and 0 < kept < saved:
            log.warning("the journal has lost %d events that were recorded before this checkpoint", saved - kept)

    def _check_that_all_start_at_one_step(self) -> None:
        """Each process restores for itself, and nothing sends weights between them afterwards."""
        own = torch.tensor([self.state.progress.step], device=self.accelerator.device)
        steps = self.accelerator.gather(own).tolist()
        if len(set(steps)) > 1:
            raise UserError(
                f"the training processes found different newest checkpoints in {self.work.root}: steps "
                f"{', '.join(map(str, steps))}, by process. Check that all of them see the same files (train.log says "
                "what was wrong with a checkpoint), move away those that are not usable everywhere, and run again"
            )

    def _has_measured_its_start(self) -> bool:
        """Not whether there is a best model: numbers that are not finite have been measured, too."""
        progress = self.state.progress
        start = 0 if progress.resumed_from is None else progress.resumed_from["step"]
        return any(row["step"] >= start for row in progress.history)

    def _do_step(self, step: int) -> StepReport:
        measure = is_due(step, self.spec.profile.log_terms_every, self.spec.total_steps)
        clips = self.train_step.per_device
        with self._naming_what_is_too_large(f"at step {step}", "per_device", clips), self.run_metrics.timing_a_step():
            report = self.train_step(step, measure_terms=measure)
        failpoint(Failpoint.STEP)
        progress = self.state.progress
        progress.step = step
        found = divergence.note_step(progress, report, self.spec.params.faults)
        if report.skipped:
            causes = divergence.clip_ids(self.loader.draws(step, self._slots_to_blame(report)))
            log.warning("step %d skipped: loss or gradient is not finite (clips %s)", step, causes)
        else:
            self.run_metrics.count(progress, report)
        if found is not None:
            self._stop_for(found, report)
        return report

    def _do_what_is_due(self, report: StepReport) -> None:
        """Logging, validation and checkpoints after a step."""
        step, last = self.state.progress.step, self.spec.total_steps
        self.checkpoints.check()
        if is_due(step, self.spec.profile.log_every, last) or report.term_gradient_norms:
            self.recorder.metrics(step, self.run_metrics.training_metrics(report, self.loader.seconds_waited))
        if is_due(step, self.scale.validation.every, last):
            self._validate()
        if self.state.progress.skipped_in_a_row:
            return  # the newest checkpoint stays one from before the skipped steps, which may come to be too many
        if is_due(step, self.scale.checkpoint.every, last):
            self._save(self.work.checkpoints)
        elif is_due(step, self.spec.profile.checkpoint_every, last):
            self._save(self._rolling, keep=self.spec.profile.keep_checkpoints)

    def _save(self, folder: Path, keep: int | None = None) -> None:
        """Begin a checkpoint. What was recorded up to it is on disk first."""
        self.state.progress.journal_position = self.recorder.keep()
        self.checkpoints.save(folder, self.state, keep=keep)
        self._last_saved = self.state.progress.step, folder

    def _save_an_early_end(self) -> None:
        """A run that stops before its last step may be anywhere between two checkpoints. What comes after it, drawing
        and tracking, may be interrupted, and shall not cost it steps."""
        progress = self.state.progress
        last_saved = self._last_saved[0] if self._last_saved is not None else None
        if self.run_metrics.steps and not progress.skipped_in_a_row and last_saved != progress.step:
            self._save(self._rolling, keep=self.spec.profile.keep_checkpoints)

    def _validate(self) -> None:
        """Measure, write the history, keep the best model. All processes see the same numbers and decide alike."""
        progress = self.state.progress
        train_loss = progress.loss_sum / progress.loss_count if progress.loss_count else None
        doing = f"in the validation at step {progress.step}"
        with self._naming_what_is_too_large(doing, "validation_batch", self.validate.clips_at_once):
            entry = self.validate(self.state, train_loss)
        self.run_metrics.window_done(progress)
        progress.history = [row for row in progress.history if row["step"] < progress.step] + [entry]
        best = next((row for row in progress.history if row["step"] == progress.best_step), None)
        is_best = is_better(entry, best, self.spec.params.validation.best_metric)
        if is_best:
            progress.best_psnr, progress.best_step, progress.validations_without_gain = entry["psnr"], progress.step, 0
            self.state.keep_as_best()
        else:
            progress.validations_without_gain += 1
        if self.accelerator.is_main_process:
            run_files.write_history(self.work, progress.history)
            if is_best:
                run_files.write_best_model(self.work, self.state, self.spec)
        self.recorder.metrics(progress.step, validation_metrics(entry))
        log.info("%s", _describe(entry, is_best))
        if self.after_validation is not None:
            self.after_validation()

    def _stop_reason(self) -> Stop | None:
        """Why to stop before the last step: a function of the state, so that a resumed run stops at the same step."""
        progress = self.state.progress
        if self.spec.stage == "a800_test" and self._hopeless_at_gate():
            return "aborted_at_gate"
        if progress.validations_without_gain >= self.spec.params.validation.early_stopping_patience:
            return "patience"
        return None

    def _hopeless_at_gate(self) -> bool:
        gate_step, limit = self.spec.params.gate.step, self.spec.params.a800_test.abort_below_db
        return any(row["step"] == gate_step and not row["psnr"] > limit for row in self.state.progress.history)

    def _leave_if_asked(self) -> None:
        """Between two steps, all processes alike: save and raise Interrupted if someone asked one of them to stop."""
        reason = self.stop_requests.agreed(self.accelerator)
        if reason is None:
            return
        step = self.state.progress.step
        if self.state.progress.skipped_in_a_row:
            saved = f"its last steps were skipped, {divergence.last_good_checkpoint(self._newest_checkpoint())}"
        else:
            # Not the same step twice: processes that write it for the second time could meet others at the first.
            if self._last_saved is None or self._last_saved[0] != step:
                self._save(self._rolling, keep=self.spec.profile.keep_checkpoints)
            self.checkpoints.wait()
            assert self._last_saved is not None
            saved = f"its checkpoint is in {self._last_saved[1]}"
        message = f"{self.spec.stage} is at step {step}, {saved}; run the same command again to go on"
        raise Interrupted(reason, EXIT_CODES[reason], message)

    def _newest_checkpoint(self) -> Path | None:
        self.checkpoints.wait()
        return next(iter(newest_first((self.work.checkpoints, self._rolling))), None)

    def _stop_for(self, found: divergence.Divergence, report: StepReport) -> NoReturn:
        draws = self.loader.draws(found.step, self._slots_to_blame(report))
        report_file = self.work.root / "fault.json"
        main = self.accelerator.is_main_process
        divergence.stop_for(found, report, draws, self._newest_checkpoint(), report_file, write=main)

    def _slots_to_blame(self, report: StepReport) -> tuple[int, ...]:
        return report.slots_not_finite or tuple(range(self.scale.batch.global_))

    @property
    def _rolling(self) -> Path:
        return self.work.root / "rolling"

    @contextmanager
    def _naming_what_is_too_large(self, doing: str, setting: str, clips: int) -> Iterator[None]:
        """Out of memory becomes the error that names the profile's setting, and is counted."""
        try:
            yield
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            run_files.count_oom_event(self.work)
            raise out_of_memory(doing, setting, clips, self.spec.profile.name) from error


_STOP_REASONS: dict[Stop, str] = {
    "patience": "validation.best_metric has not improved for validation.early_stopping_patience validations",
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
