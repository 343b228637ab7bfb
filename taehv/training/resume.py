"""Where a run starts from: its own unfinished work, else another stage's named checkpoint, else initial weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from taehv.training.checkpoint import CheckpointError, load_checkpoint, newest_first, read_manifest
from taehv.training.job import TrainingJob
from taehv.training.state import TrainingState

log = logging.getLogger(__name__)

STAGE_SPECIFIC = ("a800_test.", "h100_train.", "gate.")
"""Parameters in which two stages may differ and still continue each other's weights."""


def restore(state: TrainingState, job: TrainingJob, unfinished: Sequence[Path]) -> str:
    """Fill ``state``; returns one sentence that says from where.

    Args:
        state: initialised; left as it is when there is nothing to resume.
        job: the run.
        unfinished: the folders of its own earlier checkpoints.

    Raises:
        CheckpointError: the named checkpoint is missing, damaged, or of another configuration.
    """
    # 1. Unfinished work with the same fingerprint; a damaged checkpoint costs only the work since the one before.
    for checkpoint in newest_first(unfinished):
        try:
            load_checkpoint(checkpoint, state)
        except CheckpointError as error:
            log.warning("%s; trying the one before", error)
            continue
        return f"resumed unfinished work at step {state.progress.step}"
    # 2. The published checkpoint that the parameters name. Never a silent fresh start in its place.
    if job.resume is not None:
        _check_same_configuration(job)
        load_checkpoint(job.resume, state)
        progress = state.progress
        progress.resumed_from = {"stage": "a800_test", "step": progress.step}
        # This run keeps its own best model: the first validation, at this step, is the first candidate.
        progress.best_psnr, progress.best_step, progress.validations_without_gain = None, None, 0
        return f"continued from {job.resume}"
    # 3. Initial weights, already in the state.
    return "started from initial weights"


def _check_same_configuration(job: TrainingJob) -> None:
    assert job.resume is not None
    theirs, ours = read_manifest(job.resume).params, job.stage_params
    keys = sorted(key for key in theirs.keys() | ours.keys() if not _is_stage_specific(key))
    different = [
        f"  {key}: {theirs.get(key)} there, {ours.get(key)} here" for key in keys if theirs.get(key) != ours.get(key)
    ]
    if different:
        raise CheckpointError(f"{job.resume} was trained with other parameters:\n" + "\n".join(different))


def _is_stage_specific(key: str) -> bool:
    return key.startswith(STAGE_SPECIFIC) or ".steps." in key
