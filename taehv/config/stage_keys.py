"""What each stage's result depends on, by the dotted keys of params.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from taehv.config.params import Params, StageName

# What each stage's result depends on: a dotted key selects everything below it, ``@`` stands for ``scales.<scale>``.
# dvc.yaml's ``params`` and the work fingerprints both follow it (tests/launch/test_dvc_yaml.py).
TRAINING_KEYS = (
    "seed",
    "scale",
    "loss",
    "validation",
    "faults",
    "@.data.height",
    "@.data.width",
    "@.data.frames",
    "@.data.frame_stride",
    "@.data.horizontal_flip",
    "@.data.store.shuffle_block_shards",
    "@.augment",
    "@.model",
    "@.distillation",
    "@.perceptual",
    "@.seraena",
    "@.optim",
    "@.precision",
    "@.batch",
    "@.validation",
    "@.checkpoint",
)
STAGE_KEYS: Mapping[StageName, tuple[str, ...]] = {
    "prepare_data": ("scale", "data", "@.data", "@.teacher", "@.model.variant", "@.validation.samples"),
    "a800_test": (*TRAINING_KEYS, "a800_test", "gate.step", "@.steps.a800_test"),
    "gate_psnr": ("scale", "gate"),
    "h100_train": (*TRAINING_KEYS, "h100_train", "@.steps.h100_train"),
    "evaluate": ("scale", "evaluate", "gate", "@.final_psnr_db"),
}

ADDED_LATER: Mapping[str, Any] = {
    "@.data.frame_stride": 1,  # trainings read it since it can be a range
    "@.data.store.shuffle_block_shards": 0,
    "@.augment.brightness": 0.0,
    "@.augment.contrast": 0.0,
    "@.augment.saturation": 0.0,
    "@.augment.hue": 0.0,
    "@.augment.blur_sigma": None,
}
"""What a training did before it could be chosen. With these values it is the same training, and has the same work
folder (tests/training/test_older_runs.py): a new version does not lose unfinished work."""


def stage_params(params: Params, stage: StageName) -> dict[str, Any]:
    """The dotted keys, with ``scales.<scale>`` spelled out, and values that the stage's result depends on.

    Those of ADDED_LATER are left out where their value is what was done before.
    """
    flat = flatten(params.plain())
    scale = f"scales.{params.scale}"
    wanted = [key.replace("@", scale, 1) for key in STAGE_KEYS[stage]]
    as_before = {key.replace("@", scale, 1): value for key, value in ADDED_LATER.items()}
    return {
        key: value
        for key, value in flat.items()
        if is_below(key, wanted) and not (key in as_before and value == as_before[key])
    }


def is_below(dotted: str, sections: Iterable[str]) -> bool:
    """Whether a dotted key is one of the sections or in one of them."""
    return any(dotted == section or dotted.startswith(section + ".") for section in sections)


def flatten(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        dotted = f"{prefix}{key}"
        flat.update(flatten(value, dotted + ".") if isinstance(value, Mapping) else {dotted: value})
    return flat
