"""Which combinations of parameters make no sense, each with what is allowed instead.

Each function has the rules of one section of params.yaml, for those of its values that could be read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from taehv.config.precision import PRECISIONS
from taehv.model.variants import TRAINABLE
from taehv.runtime.errors import Problem

SMALLEST_SIDE = 11
"""Pixels along a side that SSIM needs: losses/metrics.py has it too, and brings torch."""

Values = Mapping[str, Any]


def loss_weights(values: Values) -> Iterator[Problem]:
    """Something trains the encoder, and something the decoder."""
    for half in ("encoder", "decoder"):
        if values.get("recon") == 0 and not values.get("perceptual") and values.get(half) == 0:
            yield Problem(
                half, f"must be > 0 when loss.recon and loss.perceptual are 0: nothing would train the {half}"
            )


def data_source(values: Values) -> Iterator[Problem]:
    """What the paths of the manifest are relative to is named where it is not known."""
    match values:
        case {"source": "samples", "path": str()}:
            yield Problem("path", "must be null when data.source is samples")
        case {"source": "videos" | "annotations" as source, "path": None}:
            wanted = "the folder of videos" if source == "videos" else "the annotation file"
            yield Problem("path", f"must name {wanted} when data.source is {source}")
    match values:
        case {"source": "samples" | "videos" as source, "root": str()}:
            yield Problem(
                "root", f"must be null when data.source is {source}: it is where an annotation file's paths begin"
            )


def evaluation(values: Values) -> Iterator[Problem]:
    """Parity warns before it fails."""
    match values:
        case {"parity_tolerance_db": tolerance, "parity_fail_db": fail} if fail < tolerance:
            yield Problem("parity_fail_db", f"must be at least evaluate.parity_tolerance_db ({tolerance:g})")


def split(values: Values) -> Iterator[Problem]:
    """The fractions are parts of one whole."""
    match values:
        case {"train": train, "val": val, "test": test} if abs(train + val + test - 1.0) > 1e-9:
            yield Problem("", f"train + val + test must be 1, got {train + val + test:g}")


def scale_data(values: Values) -> Iterator[Problem]:
    """The crop fits into the canvas, at its largest stride too."""
    match values:
        case {"frame_stride": [least, most]} if least > most:
            yield Problem("frame_stride", f"must rise, got [{least}, {most}]")
        case {"frame_stride": [_, most], "frames": frames, "canvas_frames": canvas} if canvas >= frames:
            needed = (frames - 1) * most + 1
            if canvas < needed:
                message = f"must be >= {needed} ({frames} frames, one in {most}) with frame_stride up to {most}"
                yield Problem("canvas_frames", f"{message}, got {canvas}")
    for name in ("height", "width", "frames"):
        size, canvas = values.get(name), values.get(f"canvas_{name}")
        if size is not None and canvas is not None and canvas < size:
            yield Problem(f"canvas_{name}", f"must be >= {name} ({size}): the crop is cut from it, got {canvas}")


def augment(values: Values) -> Iterator[Problem]:
    """The range of the blur rises."""
    match values:
        case {"blur_sigma": [least, most]} if least > most:
            yield Problem("blur_sigma", f"must rise, got [{least:g}, {most:g}]")


def blur_radius(sigma: float) -> int:
    """Beyond three standard deviations a Gaussian is next to nothing."""
    return math.ceil(3 * sigma)


def distillation(values: Values) -> Iterator[Problem]:
    """The boost falls over at least one step."""
    match values:
        case {"until_step": until, "end_step": end} if until >= end:
            yield Problem("until_step", f"must be < end_step ({end}), got {until}")


def optimizer(values: Values) -> Iterator[Problem]:
    """Muon has its own rate and momentum; warm-up ends before the cosine does."""
    name = values.get("name")
    for key in ("muon_lr", "muon_momentum"):
        if name is not None and key in values and (values[key] is None) == (name == "muon"):
            yield Problem(key, "must be a number with muon" if name == "muon" else f"must be null with {name}")
    match values:
        case {"warmup_steps": warmup, "decay_steps": decay} if warmup >= decay:
            yield Problem("warmup_steps", f"must be < decay_steps ({decay}), got {warmup}")


def scale(values: Values) -> Iterator[Problem]:
    """Clips are of a size that the model, SSIM and the blur can take."""
    yield from _blurred_size(values)
    data, name = values.get("data", {}), values.get("model", {}).get("variant")
    if name is None:
        return
    variant = TRAINABLE[name]
    multiple = f"a multiple of {variant.spatial_downscale} (patch size times downscale of {name})"
    for key in ("height", "width"):
        size = data.get(key)
        if size is not None and size % variant.spatial_downscale:
            yield Problem(f"data.{key}", f"must be {multiple}, got {size}")
        elif size is not None and size < SMALLEST_SIDE:
            yield Problem(f"data.{key}", f"must be >= {SMALLEST_SIDE}, SSIM's window, got {size}")
    match data:
        case {"frames": frames} if frames < variant.t_downscale:
            yield Problem("data.frames", f"must be >= {variant.t_downscale} for one latent of {name}, got {frames}")


def _blurred_size(values: Values) -> Iterator[Problem]:
    match values:
        case {"augment": {"blur_sigma": [_, most]}, "data": {"height": height, "width": width}}:
            if min(height, width) <= blur_radius(most):
                allowed = f"must be below {(min(height, width) - 1) / 3:.3g} for crops of {height}x{width}"
                yield Problem("augment.blur_sigma", f"{allowed}: the blur looks three times as far, got {most:g}")


def params(values: Values) -> Iterator[Problem]:
    """What sections and scales say about each other: which steps there are, and what the adversary needs."""
    scales = values.get("scales", {})
    match values:
        case {"scale": name} if name in scales:
            yield from _gate_step(values, name, scales[name])
            yield from _resumed_step(values, name, scales[name])
        case {"scale": name} if scales:
            yield Problem("scale", f"must be one of {', '.join(scales)}, got {name!r}")
    if values.get("loss", {}).get("seraena"):
        for name, sizes in scales.items():
            yield from _seraena(sizes, f"scales.{name}")


def _gate_step(values: Values, name: str, sizes: Values) -> Iterator[Problem]:
    match values, sizes:
        case {"gate": {"step": step}}, {"validation": {"every": every}, "steps": {"a800_test": last}}:
            if step > last:
                allowed = f"must be <= scales.{name}.steps.a800_test ({last}), or a800_test never gets there"
                yield Problem("gate.step", f"{allowed}; got {step}")
            elif step % every and step != last:
                allowed = f"must be a multiple of scales.{name}.validation.every ({every}) or the last step"
                yield Problem("gate.step", f"is never validated: {allowed}, got {step}")


def _resumed_step(values: Values, name: str, sizes: Values) -> Iterator[Problem]:
    key = "h100_train.resume_from_a800_step"
    match values.get("h100_train"), sizes:
        case {"resume_from_a800_step": int(step)}, {
            "checkpoint": {"every": every},
            "steps": {"a800_test": published, "h100_train": last},
        }:
            if step > published or (step % every and step != published):
                allowed = f"a800_test publishes checkpoints every {every} steps up to {published}"
                yield Problem(key, f"{allowed}, got {step}")
            elif step >= last:
                yield Problem(key, f"must be < scales.{name}.steps.h100_train ({last})")


def _seraena(sizes: Values, scale: str) -> Iterator[Problem]:
    match sizes:
        case {
            "model": {"variant": name},
            "data": {"frames": frames, "height": height, "width": width},
            "seraena": {"group_frames": group, "replay_mib": available},
            "batch": {"global": batch},
            "precision": precision,
        }:
            variant = TRAINABLE[name]
            decoded = min(frames, variant.decoded_frames(variant.latent_frames(frames)))
            if decoded % group:
                message = f"must divide the {decoded} decoded frames of a clip, got {group}"
                yield Problem(f"{scale}.seraena.group_frames", message)
            latent = variant.latent_channels / variant.spatial_downscale**2
            mib = height * width * (3 * group + latent) * PRECISIONS[precision].bytes * batch / 2**20
            if mib > available:
                message = f"must be >= {math.ceil(mib)} to hold one group per slot of a batch, got {available}"
                yield Problem(f"{scale}.seraena.replay_mib", message)
