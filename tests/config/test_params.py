"""params.yaml is read strictly: one error lists every problem, before anything else happens."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.project import REPOSITORY

from taehv.config.params import (
    Gate,
    load_params,
    parse_params,
    resolved,
)
from taehv.config.params_rules import SMALLEST_SIDE
from taehv.config.stage_keys import ADDED_LATER, STAGE_KEYS, flatten, stage_params
from taehv.losses.metrics import SSIM_WINDOW
from taehv.runtime.errors import ConfigError

SHIPPED: dict[str, Any] = yaml.safe_load((REPOSITORY / "params.yaml").read_text())


def changed(**by_path: Any) -> dict[str, Any]:
    """The shipped params with some keys (dots written as __) set to other values."""
    raw = copy.deepcopy(SHIPPED)
    for path, value in by_path.items():
        *parents, last = path.split("__")
        section = raw
        for parent in parents:
            section = section[parent]
        section[last] = value
    return raw


def problem_keys(raw: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_params(raw)
    return [problem.key for problem in caught.value.problems]


def test_the_shipped_params_are_valid_at_every_scale() -> None:
    for scale in SHIPPED["scales"]:
        assert parse_params(changed(scale=scale)).active.steps.a800_test > 0


def test_an_unknown_key_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ConfigError, match=r"loss\.reconn: unknown key; known here: .*recon"):
        parse_params(changed(loss__reconn=1.0))


def test_a_missing_key_is_refused() -> None:
    raw = changed()
    del raw["gate"]["step"]
    assert problem_keys(raw) == ["gate.step"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", "42"),
        ("seed", 1.5),
        ("seed", True),
        ("seed", -1),
        ("loss__recon", -0.1),
        ("loss__recon", float("nan")),
        ("loss__recon", float("inf")),
        ("loss__recon", "10"),
        ("loss", [10, 0.1]),
        ("gate__gpu_utilisation_severity", "maybe"),
        ("data__source", "youtube"),
        ("scales__embedded__optim__betas", [0.9]),
        ("scales__embedded__optim__betas", [0.9, 1.0]),
        ("scales__embedded__precision", "fp8"),
        ("scales__embedded__batch__global", 0),
        ("scales__embedded__data__horizontal_flip", "yes"),
    ],
)
def test_a_wrong_value_is_one_problem_with_its_key(path: str, value: object) -> None:
    keys = problem_keys(changed(**{path: value}))
    assert len(keys) == 1
    assert keys[0].startswith(path.replace("__", "."))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"scales__embedded__data__height": 60}, "scales.embedded.data.height"),
        ({"scales__embedded__data__frames": 3}, "scales.embedded.data.frames"),
        ({"scales__embedded__data__frame_stride": [1, 3]}, "scales.embedded.data.canvas_frames"),
        ({"scales__embedded__data__frame_stride": [2, 1]}, "scales.embedded.data.frame_stride"),
        ({"scales__embedded__augment__blur_sigma": [2.0, 1.0]}, "scales.embedded.augment.blur_sigma"),
        ({"scales__embedded__augment__blur_sigma": [0.1, 21.5]}, "scales.embedded.augment.blur_sigma"),
        ({"scales__embedded__data__canvas_width": 32}, "scales.embedded.data.canvas_width"),
        ({"scales__embedded__data__split__val": 0.5}, "scales.embedded.data.split"),
        ({"scales__embedded__model__variant": "taew2_1.pth"}, "scales.embedded.model.variant"),
        ({"gate__step": 999}, "gate.step"),
        ({"gate__step": 2000}, "gate.step"),
        ({"scale": "huge"}, "scale"),
        ({"data__source": "videos"}, "data.path"),
        ({"data__path": "videos"}, "data.path"),
        ({"data__root": "videos"}, "data.root"),
        ({"data__source": "videos", "data__path": "videos", "data__root": "videos"}, "data.root"),
        ({"loss__recon": 0.0, "loss__perceptual": 0.0, "loss__decoder": 0.0}, "loss.decoder"),
        ({"loss__recon": 0.0, "loss__perceptual": 0.0, "loss__encoder": 0.0}, "loss.encoder"),
        ({"scales__embedded__seraena__group_frames": 4}, "scales.embedded.seraena.group_frames"),
        ({"scales__full__seraena__replay_mib": 1000}, "scales.full.seraena.replay_mib"),
        ({"scales__embedded__data__height": 8}, "scales.embedded.data.height"),
        ({"h100_train__resume_from_a800_step": 500}, "h100_train.resume_from_a800_step"),
        ({"scales__embedded__optim__name": "adamw"}, "scales.embedded.optim.muon_lr"),
        ({"scales__full__optim__name": "muon"}, "scales.full.optim.muon_lr"),
        ({"evaluate__parity_fail_db": 0.1}, "evaluate.parity_fail_db"),
        ({"scales__embedded__optim__warmup_steps": 1000}, "scales.embedded.optim.warmup_steps"),
    ],
)
def test_an_impossible_combination_is_refused(changes: dict[str, Any], key: str) -> None:
    assert key in problem_keys(changed(**changes))


def test_what_an_unused_term_needs_is_not_asked_for() -> None:
    parse_params(changed(loss__seraena=0.0, scales__embedded__seraena__group_frames=4))


def test_the_smallest_side_is_the_window_of_ssim() -> None:
    assert SMALLEST_SIDE == SSIM_WINDOW


def test_all_problems_are_listed_at_once_type_errors_and_combinations_together() -> None:
    raw = changed(seed="x", loss__recon=-1, gate__step=999, scales__full__data__height=470, extra=1)
    assert set(problem_keys(raw)) == {"seed", "loss.recon", "gate.step", "scales.full.data.height", "extra"}


def test_a_combination_is_not_judged_by_a_wrong_value_and_all_others_are() -> None:
    raw = changed(gate__step="x", scales__full__data__height="x", scales__full__seraena__replay_mib=1)
    raw["scales"]["full"]["data"]["canvas_width"] = 10
    keys = {"gate.step", "scales.full.data.height", "scales.full.data.canvas_width"}
    assert set(problem_keys(raw)) == keys
    assert set(problem_keys(raw | {"evaluate": {"parity_tolerance_db": 2, "parity_fail_db": 1}})) == keys | {
        "evaluate.parity_fail_db"
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed: must be an integer >= 0 and <= 4294967295, got -1"),
        ({"faults__max_loss_spike": 1}, "faults.max_loss_spike: must be a finite number > 1, got 1"),
        ({"scales__full__teacher__name": "vae"}, "scales.full.teacher.name: must be one of pca, got 'vae'"),
        ({"scales__full__model__variant": "vae"}, "scales.full.model.variant: must be one of hunyuan_video, "),
        ({"scales__full__precision": "fp16"}, "scales.full.precision: must be one of fp32, bf16, fp64, got 'fp16'"),
        (
            {"gate__gpu_utilisation_severity": None},
            "gpu_utilisation_severity: must be one of warning, error, got None",
        ),
        (
            {"scales__full__optim__betas": [0.9]},
            "betas: must be a list of 2, each a finite number >= 0 and < 1, got [0.9]",
        ),
        ({"scales__full__optim__muon_lr": "1"}, "optim.muon_lr: must be a finite number > 0 or null, got '1'"),
        ({"gate": {}}, "gate.step: missing; expected an integer >= 1"),
        (
            {"scales__embedded__data__frame_stride": [1, 3]},
            "canvas_frames: must be >= 34 (12 frames, one in 3) with frame_stride up to 3, got 24",
        ),
        (
            {"scales__embedded__data__frame_stride": [0, 2]},
            "frame_stride: must be an integer >= 1 or a list of 2, each an integer >= 1, got [0, 2]",
        ),
        ({"loss": None}, "loss: must be a mapping of keys to values, got None"),
        ({"scales": {1: 2}}, "scales: must be a mapping of strings to values with at least one entry, got {1: 2}"),
    ],
)
def test_a_problem_says_what_is_allowed_and_what_was_found(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_params(changed(**changes))
    assert message in str(caught.value)


def test_what_stands_below_a_key_describes_it() -> None:
    assert Gate.model_fields["step"].description == "The step whose validation PSNR is judged."


@pytest.mark.parametrize("written", ["5e-05", "5E-5", "5.0e-5", "0.00005", "+5e-5"])
def test_a_small_number_may_be_written_in_any_way(tmp_path: Path, written: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(re.sub(r" lr: 1\.5e-3", f" lr: {written}", (REPOSITORY / "params.yaml").read_text()))
    assert load_params(file).scales["embedded"].optim.lr == 5e-5


def test_a_file_that_is_missing_or_not_yaml_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_params(tmp_path / "params.yaml")


def test_a_stage_with_wrong_params_exits_with_2_before_it_reads_data(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed(seed="x", loss__recon=-1)))
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    command = [sys.executable, "-m", "stages.prepare_data"]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert "seed: must be an integer" in result.stderr
    assert "loss.recon: must be a finite number >= 0, got -1" in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"dvc.yaml", "params.yaml"}


def test_resolved_params_hold_the_chosen_scale_and_not_the_others() -> None:
    flat = flatten(resolved(parse_params(SHIPPED)))
    assert flat["optim.lr"] == SHIPPED["scales"]["embedded"]["optim"]["lr"]
    assert flat["batch.global"] == SHIPPED["scales"]["embedded"]["batch"]["global"]
    assert flat["validation.early_stopping_patience"] == 5
    assert flat["validation.every"] == 250
    assert not any(key.startswith("scales") for key in flat)


def test_shared_sections_and_scale_sections_never_hold_the_same_key() -> None:
    for scale in SHIPPED["scales"].values():
        for section, value in scale.items():
            if isinstance(value, dict):
                assert not value.keys() & SHIPPED.get(section, {}).keys()


def test_every_parameter_belongs_to_a_stage() -> None:
    params = parse_params(SHIPPED)
    claimed = {key for stage in STAGE_KEYS for key in stage_params(params, stage)}
    claimed |= {key.replace("@", f"scales.{params.scale}") for key in ADDED_LATER}  # left out while they change nothing
    everything = {key for key in flatten(SHIPPED) if not key.startswith("scales.full")}
    assert everything == claimed


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.dictionaries(st.text(), x)))
def test_anything_at_all_is_either_read_or_a_config_error(raw: object) -> None:
    with pytest.raises(ConfigError):
        parse_params(raw)
