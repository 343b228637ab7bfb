"""The files that a training run leaves: validation history, best model, summary; and publishing them."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from taehv.config.params import dump_resolved
from taehv.runtime import atomic_files, dvc_metrics
from taehv.runtime.errors import writing
from taehv.runtime.failpoints import Failpoint, failpoint
from taehv.runtime.paths import TrainingOutputs
from taehv.training.checkpoint import flush_to_disk
from taehv.training.run_spec import RunSpec
from taehv.training.state import HistoryEntry, TrainingState


def write_history(outputs: TrainingOutputs, history: list[HistoryEntry]) -> None:
    """validation_history.json; a number that is not finite becomes null, which no judgement takes for a number."""
    rows = [{key: _finite_or_null(value) for key, value in row.items()} for row in history]
    atomic_files.write_json(outputs.history, {"schema": 1, "history": rows})
    failpoint(Failpoint.HISTORY)


def write_best_model(outputs: TrainingOutputs, state: TrainingState, spec: RunSpec) -> None:
    """best_model/: the best averaged weights so far under their published names, and what they are.

    No time is in it: a training that is killed and goes on writes the same bytes again, and so is the same model.
    """
    weights, progress = state.best_weights, state.progress
    assert weights is not None
    entry = next(row for row in progress.history if row["step"] == progress.best_step)
    info = {
        "schema": 1,
        "stage": spec.stage,
        "step": entry["step"],
        "psnr": entry["psnr"],
        "ssim": entry["ssim"],
        "lpips": entry["lpips"],
        "fingerprint": spec.fingerprint,
        "params_sha256": spec.params_sha256,
        "dataset_sha256": spec.dataset.sha256,
        "variant": state.ema.variant.name,
        "width": state.ema.width,
        "seed": spec.params.seed,
    }
    partial = outputs.root / ".best_model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with atomic_files.usual_mode(partial / outputs.best_weights.name):
        save_file(weights, partial / outputs.best_weights.name)
    flush_to_disk(partial / outputs.best_weights.name)
    atomic_files.write_json(partial / outputs.best_info.name, info)
    # For an instant there is no best_model/; a process that is killed then finds the weights in its checkpoint.
    shutil.rmtree(outputs.best_model, ignore_errors=True)
    failpoint(Failpoint.BEST_MODEL)
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


def write_summary(work: TrainingOutputs, spec: RunSpec, summary: dict[str, Any]) -> None:
    """summary.json, DVC's metrics and the parameters of a run that has reached its end; checkpoints/ exists, if only
    empty.

    A number that is not finite becomes null, as in the history.
    """
    atomic_files.write_json(work.summary, _finite_or_null(summary))
    best = summary["best"]
    dvc_metrics.write(work.metrics, {"psnr": best["psnr_db"], "ssim": best["ssim"], "step": best["step"]})
    dump_resolved(spec.params, work.params)
    work.checkpoints.mkdir(exist_ok=True)


def summary_of_before(work: TrainingOutputs, step: int) -> dict[str, Any] | None:
    """What an earlier start wrote at the end of this training; None where it did not come to this step's end.

    It knows the speed and the GPU's utilisation, which a process that has trained nothing does not.
    """
    try:
        summary = json.loads(work.summary.read_text(encoding="utf-8"))
        return summary if summary["steps"] == step else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def published_parts(outputs: TrainingOutputs) -> tuple[Path, ...]:
    """Everything that a finished run leaves to DVC and people."""
    return (
        outputs.best_model,
        outputs.checkpoints,
        outputs.history,
        outputs.summary,
        outputs.log,
        outputs.tensorboard,
        outputs.params,
        outputs.samples,
        outputs.mlflow,
        outputs.metrics,
    )


def publish(work: TrainingOutputs, published: TrainingOutputs) -> None:
    """Put the finished outputs where DVC and people look for them. The work folder stays as it is.

    Raises:
        DiskFullError: there is no space for one of them.
        OSError: one cannot be written for another reason.
    """
    for source, target in zip(published_parts(work), published_parts(published), strict=True):
        _replace(target, source)
        failpoint(Failpoint.PUBLISHED_PART)


def _finite_or_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite_or_null(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _replace(target: Path, source: Path) -> None:
    """A copy of a file or folder, made beside ``target``, takes its place when it is whole."""
    partial = target.with_name(f".{target.name}.partial")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _delete(partial)
        try:
            if source.is_dir():
                _copy_folder(source, partial)
            else:
                # No link: train.log is extended if it is published again, and DVC's cache may hold the published one.
                shutil.copy2(source, partial)
            _delete(target)
            partial.rename(target)
        finally:
            _delete(partial)


def _copy_folder(source: Path, target: Path) -> None:
    """Not shutil.copytree, which goes on after an error and then raises another, without a number."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_dir():
            _copy_folder(path, target / path.name)
        else:
            _link_or_copy(path, target / path.name)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _link_or_copy(source: Path, target: Path) -> None:
    """For files that never change: a hard link costs no space for a hundred checkpoints, another file system needs a
    copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
