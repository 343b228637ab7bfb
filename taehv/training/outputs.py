"""The files that a training run leaves: validation history, best model, metrics; and publishing them."""

from __future__ import annotations

import math
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from taehv import atomic
from taehv.params import dump_resolved
from taehv.paths import TrainingOutputs
from taehv.training.checkpoint import flush_to_disk
from taehv.training.job import TrainingJob
from taehv.training.state import HistoryEntry, TrainingState


def write_history(outputs: TrainingOutputs, history: list[HistoryEntry]) -> None:
    """validation_history.json; a number that is not finite becomes null, which no judgement takes for a number."""
    rows = [{key: _finite_or_null(value) for key, value in row.items()} for row in history]
    atomic.write_json(outputs.history, {"schema": 1, "history": rows})


def write_best_model(outputs: TrainingOutputs, state: TrainingState, job: TrainingJob) -> None:
    """best_model/: the best averaged weights so far under their published names, and what they are."""
    weights, progress = state.best_weights, state.progress
    assert weights is not None
    entry = next(row for row in progress.history if row["step"] == progress.best_step)
    info = {
        "schema": 1,
        "stage": job.stage,
        "step": entry["step"],
        "psnr": entry["psnr"],
        "ssim": entry["ssim"],
        "lpips": entry["lpips"],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "fingerprint": job.fingerprint,
        "params_sha256": job.params_sha256,
        "dataset_sha256": job.dataset_sha256,
        "variant": state.ema.variant.name,
        "width": state.ema.width,
        "seed": job.params.seed,
    }
    partial = outputs.root / ".best_model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(weights, partial / outputs.best_weights.name)
    flush_to_disk(partial / outputs.best_weights.name)
    atomic.write_json(partial / outputs.best_info.name, info)
    # For an instant there is no best_model/; a process that is killed then finds the weights in its checkpoint.
    shutil.rmtree(outputs.best_model, ignore_errors=True)
    partial.rename(outputs.best_model)
    flush_to_disk(outputs.root)


def oom_events(work: TrainingOutputs) -> int:
    """How often a process of this run, over all its restarts, ran out of memory."""
    file = _oom_file(work)
    return file.stat().st_size if file.exists() else 0


def count_oom_event(work: TrainingOutputs) -> None:
    """Remember one more, beyond the end of this process: one byte, because several processes may do so at once."""
    with _oom_file(work).open("ab", buffering=0) as file:
        file.write(b".")


def _oom_file(work: TrainingOutputs) -> Path:
    return work.root / "oom_events"


def write_summary(work: TrainingOutputs, job: TrainingJob, metrics: dict[str, Any]) -> None:
    """metrics.json and the parameters of a run that has reached its end; checkpoints/ exists, if only empty.

    A number that is not finite becomes null, as in the history.
    """
    atomic.write_json(work.metrics, _finite_or_null(metrics))
    dump_resolved(job.params, work.params)
    work.checkpoints.mkdir(exist_ok=True)


def published_parts(outputs: TrainingOutputs) -> tuple[Path, ...]:
    """Everything that a finished run leaves to DVC and people."""
    return (
        outputs.best_model,
        outputs.checkpoints,
        outputs.history,
        outputs.metrics,
        outputs.log,
        outputs.tensorboard,
        outputs.params,
        outputs.samples,
        outputs.mlflow,
    )


def publish(work: TrainingOutputs, published: TrainingOutputs) -> None:
    """Put the finished outputs where DVC and people look for them. The work folder stays as it is."""
    for source, target in zip(published_parts(work), published_parts(published), strict=True):
        _replace(target, source)


def _finite_or_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite_or_null(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _replace(target: Path, source: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_or_copy)
    else:
        # No link: train.log is extended if it has to be published again, and DVC's cache may hold the published one.
        shutil.copy2(source, target)


def _link_or_copy(source: Path | str, target: Path | str) -> None:
    """For files that never change: a hard link costs no space for a hundred checkpoints, another file system needs a
    copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
