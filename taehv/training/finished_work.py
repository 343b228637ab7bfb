"""A training that has finished, kept in its work folder until DVC has saved the outputs.

DVC hashes them after the stage has ended, which takes minutes, and deletes them before it runs the stage again: if it
is ended in between, the work folder is all that is left.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

from taehv.runtime import atomic_files
from taehv.runtime.errors import UserError
from taehv.runtime.hashing import sha256_of_file
from taehv.runtime.paths import TrainingOutputs
from taehv.training.checkpoint import CheckpointError, read_checkpoint_manifest
from taehv.training.checkpoint_writer import newest_first
from taehv.training.lock import LOCK, work_lock
from taehv.training.run_files import published_parts

log = logging.getLogger(__name__)

MARKER = "finished.json"
DELETED = ".deleted-"
"""How the name of a folder begins that is being deleted: a kill meanwhile leaves no half training to be found."""
SECONDS_TO_SAVE_IN = 24 * 3600
"""DVC hashes and copies what a stage left; a day is far more than that takes."""


def is_finished(work: TrainingOutputs) -> bool:
    """Whether the folder holds a finished training."""
    return (work.root / MARKER).exists()


def mark_finished(work: TrainingOutputs, origin: str) -> None:
    """Say so; whoever calls holds the lock.

    Args:
        work: the folder.
        origin: hash of what the result depends on beyond the fingerprint, as of the training's start.
    """
    hashes = {str(path.relative_to(work.root)): sha256_of_file(path) for path in _hashed_files(work)}
    atomic_files.write_json(work.root / MARKER, {"schema": 1, "origin": origin, "published": False, "sha256": hashes})


def tidy(work: TrainingOutputs) -> None:
    """Delete what is not needed to publish a finished training."""
    _delete_all_but(work, {part.name for part in published_parts(work)} | {MARKER, LOCK})


def mark_published(work: TrainingOutputs) -> None:
    """Its outputs have been in their places, where DVC may save them."""
    marker = json.loads((work.root / MARKER).read_text(encoding="utf-8"))
    atomic_files.write_json(work.root / MARKER, marker | {"published": True})


def recorded_origin(work: TrainingOutputs) -> str | None:
    """What was told to ``mark_finished``; None where the marker is damaged."""
    origin = _marker(work).get("origin")
    return None if origin is None else str(origin)


def is_published(work: TrainingOutputs) -> bool:
    """Whether a finished training's outputs have ever been in their places; also where the marker is damaged."""
    return _marker(work).get("published") is not False


def unmark_finished(work: TrainingOutputs) -> None:
    """From now on the folder holds unfinished work."""
    (work.root / MARKER).unlink(missing_ok=True)


def damage_of(work: TrainingOutputs) -> str | None:
    """What is wrong with a finished training's files; None where all are as they were."""
    try:
        hashes = json.loads((work.root / MARKER).read_text(encoding="utf-8"))["sha256"]
        changed = [name for name, sha256 in hashes.items() if sha256_of_file(work.root / name) != sha256]
        changed += [part.name for part in published_parts(work) if not part.exists()]
        for checkpoint in newest_first([work.checkpoints]):
            read_checkpoint_manifest(checkpoint)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CheckpointError) as error:
        return str(error)
    return f"{', '.join(changed)} changed" if changed else None


def discard(work: TrainingOutputs) -> None:
    """Delete a finished training's files, the marker last; whoever calls holds the lock."""
    _delete_all_but(work, {MARKER, LOCK, work.log.name})
    unmark_finished(work)


def delete_finished(work: TrainingOutputs) -> None:
    """Delete a finished training's folder; it stays, and the log says so, while another process uses it."""
    try:
        with work_lock(work.root):
            doomed = work.root.with_name(f"{DELETED}{work.root.name}")
            work.root.rename(doomed)
        # Without the lock, whose file is in it: NFS keeps a file that is open.
        shutil.rmtree(doomed)
    except (UserError, OSError) as error:
        log.warning("%s is not deleted: %s", work.root, error)


def delete_old_siblings(work: TrainingOutputs) -> None:
    """Delete the stage's finished trainings with other fingerprints, so that they do not pile up.

    Young ones stay: DVC, here or in an experiment that runs beside this one, may be saving them. So do those that were
    never published: they are nowhere else.
    """
    for folder in work.root.parent.glob(f"{DELETED}*"):
        shutil.rmtree(folder, ignore_errors=True)
    for marker in sorted(work.root.parent.glob(f"*/{MARKER}")):
        other = TrainingOutputs(marker.parent)
        if other.root.name == work.root.name or time.time() - marker.stat().st_mtime <= SECONDS_TO_SAVE_IN:
            continue
        if not is_published(other):
            log.info("%s holds a finished training that was never published: it stays", other.root)
            continue
        log.info("%s finished more than a day ago: deleted", other.root)
        delete_finished(other)


def _delete_all_but(work: TrainingOutputs, names: set[str]) -> None:
    for path in work.root.iterdir():
        if path.name not in names:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _marker(work: TrainingOutputs) -> dict[str, Any]:
    """Empty where it is damaged."""
    try:
        marker = json.loads((work.root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return marker if isinstance(marker, dict) else {}


def _hashed_files(work: TrainingOutputs) -> list[Path]:
    """All but the log and the curves, to which more is written, and the checkpoints, which have manifests."""
    parts = [part for part in published_parts(work) if part not in (work.log, work.tensorboard, work.checkpoints)]
    return [file for part in parts for file in (sorted(part.rglob("*")) if part.is_dir() else [part]) if file.is_file()]
