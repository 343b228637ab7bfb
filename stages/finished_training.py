"""A finished training whose outputs DVC has not saved is published again; one that DVC has saved is deleted."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from stages.recorded_inputs import RecordedInputs
from taehv.config.params import TrainingStage
from taehv.evaluation.run_records import RecordError, read_summary
from taehv.runtime import paths
from taehv.runtime.errors import DiskFullError, UserError
from taehv.runtime.hashing import sha256_of_file, sha256_of_json
from taehv.runtime.paths import TrainingOutputs, work_folder
from taehv.runtime.yaml_files import YamlFileError, read_yaml
from taehv.tracking.run import stage_run
from taehv.training import finished_work
from taehv.training.checkpoint import MANIFEST
from taehv.training.console import start_logging
from taehv.training.lock import work_lock
from taehv.training.run_files import publish
from taehv.training.run_spec import RunSpec

log = logging.getLogger("taehv.stages")


def publish_again(spec: RunSpec, origin: str) -> bool:
    """Publish what an earlier start of this very run finished, if DVC has not saved it; True if that was done.

    Once DVC has saved it, a start means that someone wants the training again (dvc repro --force).

    Args:
        spec: the run.
        origin: what ``origin_of`` gives for it.

    Raises:
        UserError: dvc.lock cannot be read, another process uses the work folder, or the outputs cannot be written.
    """
    work = spec.work
    if spec.resume is not None or not finished_work.is_finished(work):
        return False
    if finished_work.recorded_origin(work) != origin or is_saved_by_dvc(spec.stage, work):
        return False
    with work_lock(work.root):
        start_logging(work.log, main_process=True)
        damage = finished_work.damage_of(work)
        if damage is not None:
            log.warning("%s had finished, but cannot be published again from %s: %s", spec.stage, work.root, damage)
            finished_work.unmark_finished(work)
            return False
        log.warning(
            "%s had finished here, and this folder's dvc.lock does not know it: PUBLISHED AGAIN, nothing is trained. "
            "To train it again, delete %s first",
            spec.stage,
            work.root,
        )
        if tracking_folder(work).exists():
            # It was killed after its last word and before its end: the same MLflow run ends as it should have.
            with stage_run(spec.stage, spec.params, spec.profile, folder=tracking_folder(work)):
                pass
        publish_finished(work, spec.stage)
    return True


def publish_finished(work: TrainingOutputs, stage: TrainingStage) -> None:
    """Put a finished training's outputs in their places; whoever calls holds the lock.

    Raises:
        UserError: they cannot be written; the training stays as it is.
    """
    finished_work.tidy(work)
    try:
        publish(work, paths.training_outputs(stage))
    except (OSError, DiskFullError) as error:
        raise UserError(
            f"{stage} has finished, but its outputs cannot be published: {error}. The training is kept in {work.root}: "
            "the same command publishes it then, without training"
        ) from error
    finished_work.mark_published(work)


def tracking_folder(work: TrainingOutputs) -> Path:
    """Where the journal is while a training is unfinished."""
    return work.root / "tracking"


def make_way(spec: RunSpec) -> None:
    """Before a training, with its lock held: finished ones that are in its way, or were saved long ago, are deleted.

    Raises:
        UserError: one that is in the way was never published.
    """
    work = spec.work
    if finished_work.is_finished(work):
        if spec.resume is None:
            if not finished_work.is_published(work):
                raise UserError(
                    f"{work.root} holds a finished training of {spec.stage} with these parameters that was never "
                    "published, made by other code. Put that code back (git stash), and the same command publishes it; "
                    "or delete that folder, and it is trained again"
                )
            log.warning("%s had finished here: its files are deleted, and it is trained again", spec.stage)
            finished_work.discard(work)
        else:
            finished_work.unmark_finished(work)
    finished_work.delete_old_siblings(work)


def delete_if_saved(stage: TrainingStage) -> None:
    """Called by a later stage: the training that it uses is not needed in ``.work`` once DVC has saved it."""
    try:
        fingerprint = str(read_summary(paths.training_outputs(stage)).get("fingerprint"))
    except RecordError:
        return  # the caller reads the same file, and says what is wrong with it
    work = TrainingOutputs(work_folder(stage, fingerprint))
    if finished_work.is_finished(work) and is_saved_by_dvc(stage, work):
        finished_work.delete_finished(work)


def origin_of(spec: RunSpec, inputs: RecordedInputs) -> str:
    """The hash of what a result depends on beyond the fingerprint: the code that dvc.yaml lists, where a change makes
    DVC want a new training, and the checkpoint that training goes on from.

    Raises:
        UserError: that checkpoint cannot be read.
    """
    files = dict(inputs.code)
    if spec.continue_from is not None:
        manifest = spec.continue_from / MANIFEST
        try:
            files[manifest.as_posix()] = sha256_of_file(manifest)
        except OSError as error:
            raise UserError(f"the checkpoint {spec.continue_from} cannot be read: {error}") from error
    return sha256_of_json(files)


def is_saved_by_dvc(stage: TrainingStage, work: TrainingOutputs) -> bool:
    """Whether dvc.lock, which DVC writes when it has saved a stage, knows this training's mlflow.json.

    That file names the tracked run, so no other training, also not of the same parameters, has an equal one.

    Raises:
        UserError: dvc.lock cannot be read.
    """
    if not paths.DVC_LOCK.exists() or not work.mlflow.exists():
        return False
    try:
        content = read_yaml(paths.DVC_LOCK)
    except (OSError, YamlFileError) as error:
        raise UserError(
            f"{paths.DVC_LOCK} cannot be read: {error}; restore it with: git checkout {paths.DVC_LOCK}"
        ) from error
    locked = content.get("stages", {}).get(stage, {}) if isinstance(content, dict) else {}
    saved = {out["path"]: out.get("md5") for out in locked.get("outs", [])}
    expected = hashlib.md5(work.mlflow.read_bytes(), usedforsecurity=False).hexdigest()
    return saved.get(str(paths.training_outputs(stage).mlflow)) == expected
