"""Where a run starts from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taehv.training.checkpoint import CheckpointError, CheckpointInfo, load_checked, read_checkpoint_manifest
from taehv.training.checkpoint_writer import newest_first
from taehv.training.run_spec import RunSpec
from taehv.training.state import TrainingState

log = logging.getLogger(__name__)

STAGE_SPECIFIC = ("a800_test.", "h100_train.", "gate.")
"""Parameters in which two stages may differ and still continue each other's weights."""


def restore(state: TrainingState, spec: RunSpec, unfinished: Sequence[Path]) -> str:
    """Fill ``state``; returns one sentence that says from where.

    Args:
        state: initialised; left as it is when there is nothing to resume.
        spec: the run.
        unfinished: the folders of its own earlier checkpoints.

    Raises:
        CheckpointError: a named checkpoint is missing, damaged, or of another configuration; or everything of the
            unfinished work is damaged.
    """
    # 1. The checkpoint that --resume names: one of this very run. What else is there is not looked at.
    if spec.resume is not None:
        named = read_checkpoint_manifest(spec.resume)
        _check_is_of_this_run(named, spec)
        load_checked(named, state)
        return f"resumed {spec.resume} at step {state.progress.step}"
    # 2. Unfinished work with the same fingerprint; a damaged checkpoint costs only the work since the one before.
    if _restore_unfinished(state, spec, newest_first(unfinished)):
        return f"resumed unfinished work at step {state.progress.step}"
    # 3. The A800 checkpoint that the parameters name by its step. Never a silent fresh start in its place.
    if spec.continue_from is not None:
        theirs = read_checkpoint_manifest(spec.continue_from)
        _check_same_configuration(theirs, spec)
        load_checked(theirs, state)
        progress = state.progress
        progress.resumed_from = {"stage": "a800_test", "step": progress.step}
        # This run keeps its own best model: the first validation, at this step, is the first candidate.
        progress.best_psnr, progress.best_step, progress.validations_without_gain = None, None, 0
        progress.history = [row for row in progress.history if row["step"] < progress.step]
        state.best_weights = None
        return f"continued from {spec.continue_from}"
    # 4. Initial weights that the parameters name, and 5. fresh ones from the seed: both are in the state already.
    weights = spec.params.active.model.weights
    return "started from initial weights" if weights is None else f"started from the weights in {weights.path}"


def _restore_unfinished(state: TrainingState, spec: RunSpec, checkpoints: Sequence[Path]) -> bool:
    for checkpoint in checkpoints:
        try:
            found = read_checkpoint_manifest(checkpoint)
            _check_is_of_this_run(found, spec)
            load_checked(found, state)
        except CheckpointError as error:
            log.warning("%s; trying the one before", error)
            continue
        return True
    if checkpoints:
        raise CheckpointError(
            f"none of the {len(checkpoints)} checkpoints in {spec.work.root} is usable; the reasons are above. "
            "To start again from the beginning, move that folder away"
        )
    return False


def _check_is_of_this_run(theirs: CheckpointInfo, spec: RunSpec) -> None:
    if theirs.fingerprint == spec.fingerprint:
        return
    facts = {"stage": theirs.stage, "dataset_sha256": theirs.dataset_sha256, **theirs.params}
    ours = {"stage": spec.stage, "dataset_sha256": spec.dataset.sha256, **spec.stage_params}
    raise _of_another_configuration(theirs, facts, ours)


def _check_same_configuration(theirs: CheckpointInfo, spec: RunSpec) -> None:
    facts, ours = (
        {key: value for key, value in params.items() if not _is_stage_specific(key)}
        for params in (
            {"dataset_sha256": theirs.dataset_sha256, **theirs.params},
            {"dataset_sha256": spec.dataset.sha256, **spec.stage_params},
        )
    )
    if facts != ours:
        raise _of_another_configuration(theirs, facts, ours)


def _of_another_configuration(
    theirs: CheckpointInfo, facts: Mapping[str, Any], ours: Mapping[str, Any]
) -> CheckpointError:
    different = [
        f"  {key}: {facts.get(key)} there, {ours.get(key)} here"
        for key in sorted(facts.keys() | ours.keys())
        if facts.get(key) != ours.get(key)
    ]
    listed = "\n".join(different) or "  the checkpoint's format"
    return CheckpointError(f"{theirs.path} belongs to another configuration:\n{listed}")


def _is_stage_specific(key: str) -> bool:
    return key.startswith(STAGE_SPECIFIC) or ".steps." in key
