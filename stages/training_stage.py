"""What a800_test and h100_train share: start the processes, train, report, publish."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from stages.finished_training import make_way, origin_of, publish_again, publish_finished, tracking_folder
from stages.recorded_inputs import RecordedInputs, named_edits
from taehv.config.params import Params, TrainingStage, load_params
from taehv.config.profiles import load_profile
from taehv.data.dataset import Dataset
from taehv.doctor.checks import check_before_training
from taehv.evaluation.report.examples import make_examples
from taehv.evaluation.report.figures import write_strip
from taehv.evaluation.test_set import round_trip
from taehv.launch import processes
from taehv.model.checkpoints import load_model
from taehv.runtime import atomic_files, dvc_metrics, paths
from taehv.runtime.errors import is_disk_full
from taehv.runtime.failpoints import Failpoint, failpoint
from taehv.runtime.launched import launched_processes
from taehv.runtime.paths import TrainingOutputs
from taehv.tracking.environment import current_git
from taehv.tracking.run import StageRun, stage_run
from taehv.training import finished_work
from taehv.training.build import start_accelerator
from taehv.training.console import start_logging
from taehv.training.divergence import DivergenceError
from taehv.training.interruption import StopRequests
from taehv.training.lock import work_lock
from taehv.training.run_files import summary_of_before, write_summary
from taehv.training.run_spec import RunSpec
from taehv.training.trainer import NullRecorder, Trainer

log = logging.getLogger("taehv.stages")

RESUME_VARIABLE = "TAEHV_RESUME"
"""How --resume reaches a stage that DVC or a launcher starts."""
EDITED_TAG = "edited_while_running"


def run_training_stage(
    stage: TrainingStage, continue_from: Callable[[Params], Path | None], arguments: Sequence[str] | None = None
) -> int:
    """Run a training stage to its end; returns its exit code.

    Args:
        stage: which one.
        continue_from: checks what must be true before training may start, and names a checkpoint of another stage to
            start from.
        arguments: the command line.
    """
    resume = named_checkpoint(stage, arguments)
    dvc_metrics.delete_earlier(stage)
    params = load_params()
    profile = load_profile()
    inputs = RecordedInputs.at_start(stage, params)
    continued = continue_from(params)
    spec = RunSpec(stage, params, profile, Dataset.open(), paths.TEACHER, continued, resume)
    origin = origin_of(spec, inputs)
    if launched_processes() is None and publish_again(spec, origin):
        inputs.refuse_edits(_kept(spec))
        return 0
    check_before_training(spec)
    launched = processes.run_if_launcher_needed(profile, stage)
    if launched is not None:
        return launched
    stop_requests = StopRequests()
    with stop_requests.listening():
        accelerator = start_accelerator(spec)
        if not accelerator.is_main_process:
            start_logging(spec.work.log, main_process=False)
            Trainer(spec, accelerator, NullRecorder(), stop_requests).run()
            return 0
        with work_lock(spec.work.root) as predecessor:
            start_logging(spec.work.log, main_process=True)
            if predecessor is not None:
                log.warning("%s was training here and is gone; its lock is taken over", predecessor)
            make_way(spec)
            train(spec, accelerator, stop_requests, inputs, origin)
            finished_work.tidy(spec.work)
            inputs.refuse_edits(_kept(spec))
            publish_finished(spec.work, stage)
            inputs.refuse_edits(_kept(spec))
    return 0


def _kept(spec: RunSpec) -> str:
    return (
        f"The finished training is kept in {spec.work.root}. Put back what it used (git stash, or undo the edit) and "
        "run the same command: it publishes the training, and trains nothing"
    )


def named_checkpoint(stage: TrainingStage, arguments: Sequence[str] | None) -> Path | None:
    """What --resume, or TAEHV_RESUME, names. The processes that this one starts are told the same."""
    parser = argparse.ArgumentParser(prog=f"python -m stages.{stage}", description=f"The DVC stage {stage}.")
    parser.add_argument(
        "--resume",
        metavar="CHECKPOINT",
        default=os.environ.get(RESUME_VARIABLE),
        help="go on from this checkpoint of the same run (a folder step-N) instead of the newest one "
        f"(default: {RESUME_VARIABLE}, which also works with dvc repro)",
    )
    resume = parser.parse_args(arguments).resume
    if resume is None:
        return None
    os.environ[RESUME_VARIABLE] = resume
    return Path(resume)


def train(
    spec: RunSpec, accelerator: Accelerator, stop_requests: StopRequests, inputs: RecordedInputs, origin: str
) -> None:
    """The first process's part: train, track it, and leave a finished training in the work folder."""
    work = spec.work
    log.info("%s: work in progress is in %s", spec.stage, work.root)
    folder = tracking_folder(work)
    with stage_run(spec.stage, spec.params, spec.profile, folder=folder, tensorboard=work.tensorboard) as run:
        warn = EditWarning(inputs, run)
        run.dataset(paths.DATASET)
        try:
            outcome = Trainer(spec, accelerator, run, stop_requests, after_validation=warn.if_edited).run()
        except DivergenceError as error:
            run.artifact(error.report)
            raise
        summary = outcome.summary | {"git_commit": current_git().commit}
        if outcome.steps_here == 0:
            summary = summary_of_before(work, outcome.state.progress.step) or summary
        write_summary(work, spec, summary)
        missing = draw_samples_or_say_why(work, spec.dataset, accelerator.device)
        if missing is not None:
            run.tags({"samples_missing": missing})
        for path in (work.history, work.summary, work.log, work.params, work.samples):
            run.artifact(path)
        run.model(work.best_model, metrics=summary["best"])
        failpoint(Failpoint.MODEL_TRACKED)
        if outcome.stopped_early is not None:
            run.tags({"stopped_early": outcome.stopped_early})
        atomic_files.write_json(work.mlflow, {"schema": 1, **vars(run.ids())})
        warn.if_edited()
        finished_work.mark_finished(work, origin)
        failpoint(Failpoint.FINISHED)


class EditWarning:
    """Says once for each edit, in the log and in the tracked run, that DVC would record what was not used."""

    def __init__(self, inputs: RecordedInputs, run: StageRun) -> None:
        self._inputs = inputs
        self._run = run
        self._said: list[str] = []

    def if_edited(self) -> None:
        """Look, and warn of what was not there the last time."""
        edits = self._inputs.edits()
        if edits == self._said:
            return
        self._said = edits
        self._run.tags({EDITED_TAG: named_edits(edits) or "no: put back"})
        if not edits:
            log.info("what was edited while %s runs has been put back", self._inputs.stage)
            return
        log.warning(
            "WARNING: edited while %s runs, which goes on with what it started with: %s. Put it back before the end, "
            "or the stage fails there (its work is kept)",
            self._inputs.stage,
            named_edits(edits),
        )


def draw_samples_or_say_why(work: TrainingOutputs, dataset: Dataset, device: torch.device) -> str | None:
    """Draw them; what went wrong otherwise. The training is done and must not be lost for want of a figure.

    Raises:
        Exception: the disk is full: then nothing can be published either, and a later start goes on from here.
    """
    try:
        draw_samples(work, dataset, device)
    except Exception as error:
        if is_disk_full(error):
            raise
        log.exception("WARNING: not all strips of frames could be drawn; the training is complete without them")
        return f"{type(error).__name__}: {error}"
    return None


def draw_samples(work: TrainingOutputs, dataset: Dataset, device: torch.device) -> None:
    """A strip of frames of one validation clip per source: original, best model, error."""
    # Not over files of an earlier execution: they may be links into DVC's cache.
    shutil.rmtree(work.samples, ignore_errors=True)
    work.samples.mkdir(parents=True)
    model, _ = load_model(work.best_model)
    codec = {"best model": round_trip(model.to(device))}
    for example in make_examples(dataset.split("val"), codec, device):
        write_strip(example, work.samples / f"{example.file_stem}.png")
