"""Which combinations of parameters make no sense, each with what is allowed instead."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from taehv.model.variants import TRAINABLE
from taehv.runtime.errors import Problem

SMALLEST_PICTURE = 11
"""Pixels along a side that SSIM needs: losses/metrics.py has it too, and brings torch."""
BYTES_PER_VALUE = {"fp32": 4, "bf16": 4, "fp64": 8}


def impossible_combinations(values: Mapping[str, Any], raw: object) -> Iterator[Problem]:
    """Rules over several keys; a rule whose keys could not be read is left out (their own problem is listed)."""
    yield from _loss_problems(values)
    yield from _source_problems(values)
    tolerance, fail = values.get("evaluate.parity_tolerance_db"), values.get("evaluate.parity_fail_db")
    if tolerance is not None and fail is not None and fail < tolerance:
        yield Problem("evaluate.parity_fail_db", f"must be at least evaluate.parity_tolerance_db ({tolerance:g})")
    scales = raw.get("scales") if isinstance(raw, Mapping) else None
    names = [name for name in scales if isinstance(name, str)] if isinstance(scales, Mapping) else []
    if names and "scale" in values and values["scale"] not in names:
        yield Problem("scale", f"must be one of {', '.join(names)}, got {values['scale']!r}")
    for name in names:
        yield from _data_problems(values, f"scales.{name}")
        yield from _schedule_problems(values, f"scales.{name}")
        yield from _seraena_problems(values, f"scales.{name}")


def _loss_problems(values: Mapping[str, Any]) -> Iterator[Problem]:
    if values.get("loss.recon") == 0.0 and not values.get("loss.perceptual"):
        for half in ("encoder", "decoder"):
            if values.get(f"loss.{half}") == 0.0:
                yield Problem(
                    f"loss.{half}",
                    f"must be > 0 when loss.recon and loss.perceptual are 0: nothing would train the {half}",
                )


def _source_problems(values: Mapping[str, Any]) -> Iterator[Problem]:
    if not {"data.source", "data.path"} <= values.keys():
        return
    source, path = values["data.source"], values["data.path"]
    if source == "samples" and path is not None:
        yield Problem("data.path", "must be null when data.source is samples")
    if source != "samples" and path is None:
        wanted = "the folder of videos" if source == "videos" else "the annotation file"
        yield Problem("data.path", f"must name {wanted} when data.source is {source}")


def _data_problems(values: Mapping[str, Any], scale: str) -> Iterator[Problem]:
    data = f"{scale}.data"
    for size, canvas in (("height", "canvas_height"), ("width", "canvas_width"), ("frames", "canvas_frames")):
        pair = values.get(f"{data}.{size}"), values.get(f"{data}.{canvas}")
        if None not in pair and pair[1] < pair[0]:  # type: ignore[operator]
            yield Problem(f"{data}.{canvas}", f"must be >= {size} ({pair[0]}): the crop is cut from it, got {pair[1]}")
    parts = [f"{data}.split.{part}" for part in ("train", "val", "test")]
    fractions = [values[part] for part in parts if part in values]
    if len(fractions) == len(parts) and abs(sum(fractions) - 1.0) > 1e-9:
        yield Problem(f"{data}.split", f"train + val + test must be 1, got {sum(fractions):g}")
    name = values.get(f"{scale}.model.variant")
    if name is None:
        return
    if name not in TRAINABLE:
        yield Problem(f"{scale}.model.variant", f"must be one of {', '.join(TRAINABLE)}, got {name!r}")
        return
    variant = TRAINABLE[name]
    for size in ("height", "width"):
        value = values.get(f"{data}.{size}")
        if value is not None and value % variant.spatial_downscale:
            message = (
                f"must be a multiple of {variant.spatial_downscale} (patch size times downscale of {name}), got {value}"
            )
            yield Problem(f"{data}.{size}", message)
        elif value is not None and value < SMALLEST_PICTURE:
            yield Problem(f"{data}.{size}", f"must be >= {SMALLEST_PICTURE}, SSIM's window, got {value}")
    frames = values.get(f"{data}.frames")
    if frames is not None and frames < variant.t_downscale:
        yield Problem(f"{data}.frames", f"must be >= {variant.t_downscale} for one latent of {name}, got {frames}")


def _schedule_problems(values: Mapping[str, Any], scale: str) -> Iterator[Problem]:
    every = values.get(f"{scale}.validation.every")
    gate_step, test_steps = values.get("gate.step"), values.get(f"{scale}.steps.a800_test")
    active = values.get("scale") == scale.removeprefix("scales.")
    if active and None not in (every, gate_step, test_steps):
        if gate_step > test_steps:  # type: ignore[operator]
            message = (
                f"must be <= {scale}.steps.a800_test ({test_steps}), or a800_test never gets there; got {gate_step}"
            )
            yield Problem("gate.step", message)
        elif gate_step % every and gate_step != test_steps:  # type: ignore[operator]
            message = f"is never validated: must be a multiple of {scale}.validation.every ({every}) or the last step"
            yield Problem("gate.step", f"{message}, got {gate_step}")
    resume, published = values.get("h100_train.resume_from_a800_step"), values.get(f"{scale}.checkpoint.every")
    train_steps = values.get(f"{scale}.steps.h100_train")
    if active and resume is not None and None not in (published, test_steps, train_steps):
        if resume > test_steps or (resume % published and resume != test_steps):  # type: ignore[operator]
            message = f"a800_test publishes checkpoints every {published} steps up to {test_steps}, got {resume}"
            yield Problem("h100_train.resume_from_a800_step", message)
        elif resume >= train_steps:  # type: ignore[operator]
            yield Problem("h100_train.resume_from_a800_step", f"must be < {scale}.steps.h100_train ({train_steps})")
    name = values.get(f"{scale}.optim.name")
    for key in ("muon_lr", "muon_momentum"):
        dotted = f"{scale}.optim.{key}"
        if name is not None and dotted in values and (values[dotted] is None) == (name == "muon"):
            yield Problem(dotted, "must be a number with muon" if name == "muon" else f"must be null with {name}")
    until, end = values.get(f"{scale}.distillation.until_step"), values.get(f"{scale}.distillation.end_step")
    if None not in (until, end) and until >= end:  # type: ignore[operator]
        yield Problem(f"{scale}.distillation.until_step", f"must be < end_step ({end}), got {until}")
    warmup, decay = values.get(f"{scale}.optim.warmup_steps"), values.get(f"{scale}.optim.decay_steps")
    if None not in (warmup, decay) and warmup >= decay:  # type: ignore[operator]
        yield Problem(f"{scale}.optim.warmup_steps", f"must be < decay_steps ({decay}), got {warmup}")


def _seraena_problems(values: Mapping[str, Any], scale: str) -> Iterator[Problem]:
    wanted = {
        "variant": f"{scale}.model.variant",
        "frames": f"{scale}.data.frames",
        "height": f"{scale}.data.height",
        "width": f"{scale}.data.width",
        "group": f"{scale}.seraena.group_frames",
        "mib": f"{scale}.seraena.replay_mib",
        "batch": f"{scale}.batch.global",
        "precision": f"{scale}.precision",
    }
    found = {name: values[key] for name, key in wanted.items() if key in values}
    if not values.get("loss.seraena") or len(found) < len(wanted) or found["variant"] not in TRAINABLE:
        return
    variant = TRAINABLE[found["variant"]]
    decoded = min(found["frames"], variant.decoded_frames(variant.latent_frames(found["frames"])))
    if decoded % found["group"]:
        yield Problem(wanted["group"], f"must divide the {decoded} decoded frames of a clip, got {found['group']}")
    latent = variant.latent_channels / variant.spatial_downscale**2
    pixels = found["height"] * found["width"]
    mib = pixels * (3 * found["group"] + latent) * BYTES_PER_VALUE[found["precision"]] * found["batch"] / 2**20
    if mib > found["mib"]:
        yield Problem(
            wanted["mib"], f"must be >= {math.ceil(mib)} to hold one group per slot of a batch, got {found['mib']}"
        )
