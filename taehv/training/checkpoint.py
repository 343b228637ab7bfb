"""Checkpoints: folders ``step-N`` that are either whole or do not exist for the reader.

A checkpoint holds the weights, their moving average, the best averaged weights so far, the optimizer's and the
adversary's state and what each slot remembers (safetensors: nothing in it can execute), and everything else as JSON.
There is no random state in it, because training has none: every draw is a function of (seed, step, slot). Its
``manifest.json``, written last, lists size and sha256 of every file, and its own sha256.

Nothing in it depends on the number of processes or on the device.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from taehv.model.checkpoints import check_weights
from taehv.runtime import atomic_files
from taehv.runtime.errors import UserError
from taehv.runtime.hashing import sha256_of_file, sha256_of_json
from taehv.training.replay import Sample, as_tensors
from taehv.training.run_spec import CHECKPOINT_FORMAT, RunSpec
from taehv.training.state import Progress, TrainingState

MANIFEST = "manifest.json"
STEP = "step-"
"""How the name of a checkpoint's folder begins; the number of the step follows."""
OWN_HASH = "manifest_sha256"
MODEL, EMA, BEST = "model.safetensors", "ema.safetensors", "best.safetensors"
OPTIMIZER, ADVERSARY, PROGRESS = "optimizer.safetensors", "adversary.safetensors", "progress.json"


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or belongs to another configuration."""


@dataclass(frozen=True)
class CheckpointInfo:
    """The manifest of a checkpoint."""

    path: Path
    step: int
    stage: str
    fingerprint: str
    params: dict[str, Any]
    dataset_sha256: str


@dataclass(frozen=True)
class Snapshot:
    """The state at one step, as copies that nobody changes: it can be written while training goes on."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    """By file; what is equal on every process, and only on the one that writes it."""
    progress: str | None
    """The content of progress.json, on the same process."""
    remembered: dict[str, tuple[Sample, ...]]
    """By file; what this process's slots remember."""


def take_snapshot(state: TrainingState, *, with_shared_part: bool) -> Snapshot:
    """Copy the state to the CPU; ``with_shared_part`` on one process only."""
    remembered = state.adversary.remembered() if state.adversary is not None else {}
    if not with_shared_part:
        return Snapshot(state.progress.step, {}, None, remembered)
    tensors = {
        MODEL: _copied(state.student.state_dict()),
        EMA: _copied(state.ema.state_dict()),
        OPTIMIZER: _copied(state.optimizers.state_tensors()),
    }
    if state.adversary is not None:
        tensors[ADVERSARY] = _copied(state.adversary.state_tensors())
    if state.best_weights is not None:
        tensors[BEST] = state.best_weights
    return Snapshot(state.progress.step, tensors, json.dumps(dataclasses.asdict(state.progress), indent=1), remembered)


def write_files(snapshot: Snapshot, folder: Path) -> None:
    """This process's files of a checkpoint, each flushed to disk."""
    for name, tensors in snapshot.tensors.items():
        _save(tensors, folder / name)
    for name, samples in snapshot.remembered.items():
        _save(as_tensors(samples), folder / name)
    if snapshot.progress is not None:
        (folder / PROGRESS).write_text(snapshot.progress, encoding="utf-8")
        flush_to_disk(folder / PROGRESS)


def write_checkpoint_manifest(folder: Path, step: int, spec: RunSpec) -> None:
    """The manifest over all files that are in the folder now."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)} for path in sorted(folder.iterdir())
    }
    manifest = {
        "schema": 1,
        "format": CHECKPOINT_FORMAT,
        "stage": spec.stage,
        "step": step,
        "fingerprint": spec.fingerprint,
        "params": spec.stage_params,
        "dataset_sha256": spec.dataset.sha256,
        "versions": {"torch": torch.__version__, "accelerate": accelerate.__version__},
        "files": files,
    }
    signed = manifest | {OWN_HASH: sha256_of_json(manifest)}
    (folder / MANIFEST).write_text(json.dumps(signed, indent=1), encoding="utf-8")
    flush_to_disk(folder / MANIFEST)
    flush_to_disk(folder)


def read_checkpoint_manifest(checkpoint: Path) -> CheckpointInfo:
    """Check the manifest, and every file of a checkpoint against it.

    Raises:
        CheckpointError: it does not exist, its folder is named after another step, or a file is missing, cut or
            changed.
    """
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        signature = manifest.pop(OWN_HASH, None)
        if manifest["format"] != CHECKPOINT_FORMAT:
            raise CheckpointError(
                f"{checkpoint} has format {manifest['format']}, this version reads {CHECKPOINT_FORMAT}"
            )
        if signature != sha256_of_json(manifest):
            raise CheckpointError(f"{checkpoint / MANIFEST} is damaged: it does not match its own checksum")
        named = step_of(checkpoint)
        if named is not None and named != manifest["step"]:
            raise CheckpointError(
                f"{checkpoint} is the checkpoint of step {manifest['step']}, by its manifest: the folder was renamed. "
                f"Call it {checkpoint.with_name(STEP + str(manifest['step'])).name} again to use it"
            )
        for name, expected in manifest["files"].items():
            path = checkpoint / name
            if path.stat().st_size != expected["bytes"] or sha256_of_file(path) != expected["sha256"]:
                raise CheckpointError(f"{path} is damaged: its size or checksum is not the manifest's")
        return CheckpointInfo(
            checkpoint,
            int(manifest["step"]),
            str(manifest["stage"]),
            str(manifest["fingerprint"]),
            dict(manifest["params"]),
            str(manifest["dataset_sha256"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"no usable checkpoint at {checkpoint}: {type(error).__name__}: {error}") from error


def step_of(path: Path) -> int | None:
    """The step in the name of a checkpoint's folder; None where it is named otherwise."""
    digits = path.name.removeprefix(STEP)
    return int(digits) if path.name.startswith(STEP) and digits.isdecimal() else None


def load_checked(info: CheckpointInfo, state: TrainingState) -> None:
    """Put a checkpoint that was checked just now (``info``) into ``state``, on whatever device its tensors are.

    Raises:
        CheckpointError: the weights do not fit the model, or are no finite floating-point numbers.
    """
    checkpoint = info.path
    try:
        state.student.load_state_dict(_weights(checkpoint / MODEL), strict=True)
        state.ema.load_state_dict(_weights(checkpoint / EMA), strict=True)
        state.optimizers.load_state_tensors(load_file(checkpoint / OPTIMIZER))
        if state.adversary is not None:
            state.adversary.load_state_tensors(load_file(checkpoint / ADVERSARY))
            state.adversary.load_replay(checkpoint)
        state.progress = Progress(**json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8")))
        state.best_weights = _weights(checkpoint / BEST) if state.progress.best_step is not None else None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"the checkpoint {checkpoint} does not fit this model: {error}") from error


def _weights(file: Path) -> dict[str, Tensor]:
    weights = load_file(file)
    check_weights(weights, str(file), CheckpointError)
    return weights


def flush_to_disk(path: Path) -> None:
    """fsync of a file, or of a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    with atomic_files.usual_mode(file):
        save_file(tensors, file)
    flush_to_disk(file)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
