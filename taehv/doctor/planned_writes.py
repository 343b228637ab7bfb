"""How many bytes a training stage will still write, from its parameters alone."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

import torch

from taehv.config.params import Scale
from taehv.config.precision import PRECISIONS
from taehv.losses.seraena import Discriminator
from taehv.model.taehv import TAEHV
from taehv.model.variants import VARIANTS
from taehv.runtime import paths
from taehv.training.run_spec import RunSpec

LOG_BYTES = 32 * 10**6
"""Logs, journal, curves and figures of a run; an embedded one has 3 MB."""


@dataclass(frozen=True)
class PlannedWrites:
    """Bytes that a stage will still write, by what they are for."""

    published: int
    """Checkpoints that stay, the best model and the logs: an output of the stage, and so in DVC's cache too."""
    rolling: int
    """Checkpoints that are replaced by newer ones, and the one that is being written."""
    best_model: int
    """Weights alone; MLflow keeps a copy."""


NOTHING = PlannedWrites(0, 0, 0)


def planned_writes(spec: RunSpec) -> PlannedWrites:
    """What is left to be written: nothing where the stage has finished with these parameters and this data."""
    if _is_finished(spec):
        return NOTHING
    scale, last = spec.params.active, spec.total_steps
    every = scale.checkpoint.every
    there = {path.name for path in spec.work.checkpoints.glob("step-*")}
    first = (spec.stage == "h100_train" and spec.params.h100_train.resume_from_a800_step) or 0
    kept = sorted({*range(every, last + 1, every), last})
    published = sum(checkpoint_bytes(spec, step) for step in kept if step > first and f"step-{step}" not in there)
    rolling_there = len(list((spec.work.root / "rolling").glob("step-*")))
    rolling = max(spec.profile.keep_checkpoints - rolling_there, 0) + 1  # + 1: written before the oldest is deleted
    weights = _weights(scale)
    return PlannedWrites(published + weights + LOG_BYTES, rolling * checkpoint_bytes(spec, last), weights)


def checkpoint_bytes(spec: RunSpec, step: int) -> int:
    """Size of the checkpoint of a step: weights, their average, the best ones, optimizers, adversary and its memory."""
    scale = spec.params.active
    parameters, filters = _model_sizes(scale.model.variant, scale.model.width)
    item = PRECISIONS[scale.precision].bytes
    # AdamW keeps two numbers for each parameter, Muon (for the filters) one.
    optimizers = 2 * parameters - (filters if scale.optim.name == "muon" else 0)
    total = item * (3 * parameters + optimizers)
    if spec.params.loss.seraena > 0:
        seraena = scale.seraena
        discriminator = _discriminator_size(scale.model.variant, seraena.group_frames, seraena.width)
        total += 3 * item * discriminator + _replay_bytes(scale, step)  # 3: with AdamW's two numbers for each
    return total


def _weights(scale: Scale) -> int:
    parameters, _ = _model_sizes(scale.model.variant, scale.model.width)
    return parameters * PRECISIONS[scale.precision].bytes


@functools.cache
def _model_sizes(variant: str, width: float) -> tuple[int, int]:
    """Numbers in all parameters, and in those that are convolution filters."""
    with torch.device("meta"):
        model = TAEHV(VARIANTS[variant], width)
    counts = [(parameter.numel(), parameter.ndim > 1) for parameter in model.parameters()]
    return sum(count for count, _ in counts), sum(count for count, is_filter in counts if is_filter)


@functools.cache
def _discriminator_size(variant: str, group_frames: int, width: int) -> int:
    with torch.device("meta"):
        discriminator = Discriminator(3 * group_frames, VARIANTS[variant].latent_channels, width)
    return sum(parameter.numel() for parameter in discriminator.parameters())


def _replay_bytes(scale: Scale, step: int) -> int:
    """Each slot remembers one group of frames per step, with its latents, until its share of the memory is full."""
    variant = VARIANTS[scale.model.variant]
    latents = variant.latent_channels / variant.spatial_downscale**2
    pixels = scale.data.height * scale.data.width
    sample = int(pixels * (3 * scale.seraena.group_frames + latents)) * PRECISIONS[scale.precision].bytes
    per_slot = scale.seraena.replay_mib * 2**20 // scale.batch.global_
    remembered = max(step - scale.seraena.start_step + 1, 0)
    return scale.batch.global_ * sample * min(remembered, per_slot // sample)


def _is_finished(spec: RunSpec) -> bool:
    outputs = paths.training_outputs(spec.stage)
    try:
        info = json.loads(outputs.best_info.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return outputs.summary.is_file() and bool(info.get("fingerprint") == spec.fingerprint)
