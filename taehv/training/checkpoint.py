"""Checkpoints: folders ``step-N`` that are either whole or do not exist for the reader.

A checkpoint holds the weights, their moving average, the optimiser's and the adversary's state and what each slot
remembers (safetensors: nothing in it can execute), and everything else as JSON. Its ``manifest.json``, written last,
lists size and sha256 of every file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor

from taehv.errors import UserError
from taehv.fingerprint import sha256_of_file
from taehv.training.job import CHECKPOINT_FORMAT, TrainingJob
from taehv.training.state import Progress, TrainingState

MANIFEST = "manifest.json"


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or belongs to another configuration."""


@dataclass(frozen=True)
class CheckpointInfo:
    """The manifest of a checkpoint."""

    path: Path
    step: int
    fingerprint: str
    params: dict[str, Any]


def save_checkpoint(folder: Path, state: TrainingState, job: TrainingJob, accelerator: Accelerator) -> Path:
    """Write ``folder/step-N``; it appears only when all of it is on disk. An existing one of that step is replaced.

    All processes call it: each writes what its slots remember, the first one writes everything else.
    """
    step = state.progress.step
    partial, final = folder / f".step-{step}.partial", folder / f"step-{step}"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    if state.adversary is not None:
        state.adversary.save_replay(partial)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _write_shared_part(partial, state, job)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _flush_to_disk(folder)
    return final


def _write_shared_part(partial: Path, state: TrainingState, job: TrainingJob) -> None:
    """What is equal on every process, and the manifest over all files."""
    save_file(_contiguous(state.student.state_dict()), partial / "model.safetensors")
    save_file(_contiguous(state.ema.state_dict()), partial / "ema.safetensors")
    save_file(_contiguous(state.optimizers.state_tensors()), partial / "optimizer.safetensors")
    if state.adversary is not None:
        save_file(_contiguous(state.adversary.state_tensors()), partial / "adversary.safetensors")
    progress = json.dumps(dataclasses.asdict(state.progress), indent=1)
    (partial / "progress.json").write_text(progress, encoding="utf-8")
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)} for path in sorted(partial.iterdir())
    }
    manifest = {
        "schema": 1,
        "format": CHECKPOINT_FORMAT,
        "stage": job.stage,
        "step": state.progress.step,
        "fingerprint": job.fingerprint,
        "params": job.stage_params,
        "dataset_sha256": job.dataset_sha256,
        "versions": {"torch": torch.__version__, "accelerate": accelerate.__version__},
        "files": files,
    }
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in partial.iterdir():
        _flush_to_disk(path)


def read_manifest(checkpoint: Path) -> CheckpointInfo:
    """Check every file of a checkpoint against its manifest.

    Raises:
        CheckpointError: it does not exist, or a file is missing, cut or changed.
    """
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != CHECKPOINT_FORMAT:
            raise CheckpointError(
                f"{checkpoint} has format {manifest['format']}, this version reads {CHECKPOINT_FORMAT}"
            )
        for name, expected in manifest["files"].items():
            path = checkpoint / name
            if path.stat().st_size != expected["bytes"] or sha256_of_file(path) != expected["sha256"]:
                raise CheckpointError(f"{path} is damaged: its size or checksum is not the manifest's")
        return CheckpointInfo(checkpoint, int(manifest["step"]), str(manifest["fingerprint"]), dict(manifest["params"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"no usable checkpoint at {checkpoint}: {type(error).__name__}: {error}") from error


def load_checkpoint(checkpoint: Path, state: TrainingState) -> CheckpointInfo:
    """Put a checked checkpoint into ``state``, on whatever device its tensors are.

    Raises:
        CheckpointError: as ``read_manifest``, or the weights do not fit the model.
    """
    info = read_manifest(checkpoint)
    try:
        state.student.load_state_dict(load_file(checkpoint / "model.safetensors"), strict=True)
        state.ema.load_state_dict(load_file(checkpoint / "ema.safetensors"), strict=True)
        state.optimizers.load_state_tensors(load_file(checkpoint / "optimizer.safetensors"))
        if state.adversary is not None:
            state.adversary.load_state_tensors(load_file(checkpoint / "adversary.safetensors"))
            state.adversary.load_replay(checkpoint)
        progress = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
        state.progress = Progress(**progress)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the checkpoint {checkpoint} does not fit this model: {error}") from error
    return info


def newest_first(folders: Sequence[Path]) -> list[Path]:
    """The checkpoints in ``folders``, the newest first; not yet checked."""
    found = [path for folder in folders for path in folder.glob("step-*") if _step_of(path) is not None]
    return sorted(found, key=lambda path: _step_of(path) or 0, reverse=True)


def keep_newest(folder: Path, keep: int) -> None:
    """Delete all but the ``keep`` newest checkpoints."""
    for path in newest_first([folder])[keep:]:
        shutil.rmtree(path)


def _step_of(path: Path) -> int | None:
    digits = path.name.removeprefix("step-")
    return int(digits) if digits.isdecimal() else None


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
