"""Unfinished work of the version before the folders of `taehv/` were rebuilt (commit 0aad802) goes on with this one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.golden_values import GOLDEN
from support.project import REPOSITORY, merge
from support.training_states import new_state, spec, train_a_little

from taehv.config.params import Params, TrainingStage, parse_params
from taehv.runtime.paths import work_folder
from taehv.training.checkpoint import CheckpointError, read_checkpoint_manifest
from taehv.training.checkpoint_writer import newest_first
from taehv.training.resume import restore
from taehv.training.run_spec import RunSpec

OLDER = GOLDEN / "run_of_0aad802"
FINGERPRINTS: dict[str, str] = json.loads((OLDER / "fingerprints.json").read_text())
"""By scale and stage, of the params.yaml beside it and a dataset whose hash is all zeros."""
DATASET = "0" * 64
TINY: dict[str, Any] = {"model": {"width": 1 / 64}, "seraena": {"width": 1, "replay_mib": 1}}
"""What was changed for the checkpoint."""


def older_params(**changes: Any) -> Params:
    """With the values of this version for what has come since."""
    raw: dict[str, Any] = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    merge(raw, yaml.safe_load((OLDER / "params.yaml").read_text()))
    merge(raw, changes)
    return parse_params(raw)


@pytest.fixture
def run() -> RunSpec:
    """The training of the checkpoint, as this version sees it."""
    return spec(older_params(scales={"embedded": TINY}), dataset=DATASET, stage="a800_test")


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """Its rolling checkpoints."""
    return Path(shutil.copytree(OLDER / "rolling", tmp_path / "rolling"))


@pytest.mark.parametrize("scale", ["embedded", "full"])
@pytest.mark.parametrize("stage", ["a800_test", "h100_train"])
def test_the_same_parameters_and_data_have_the_same_fingerprint_and_so_the_same_work_folder(
    scale: str, stage: TrainingStage
) -> None:
    fingerprint = spec(older_params(scale=scale), dataset=DATASET, stage=stage).fingerprint
    assert fingerprint == FINGERPRINTS[f"{scale} {stage}"]
    assert work_folder(stage, fingerprint).name == fingerprint[:16]


def test_a_parameter_that_came_since_counts_where_it_changes_the_training() -> None:
    blurred = older_params(scales={"embedded": {"augment": {"blur_sigma": [0.1, 2.0]}}})
    fingerprint = spec(blurred, dataset=DATASET, stage="a800_test").fingerprint
    assert fingerprint != FINGERPRINTS["embedded a800_test"]


def test_an_older_checkpoint_is_one_of_this_run_and_training_goes_on_from_it(run: RunSpec, unfinished: Path) -> None:
    state = new_state(seed=99, width=TINY["model"]["width"], params=run.params)
    assert restore(state, run, [unfinished]) == "resumed unfinished work at step 2"
    (checkpoint,) = newest_first([unfinished])
    assert read_checkpoint_manifest(checkpoint).fingerprint == run.fingerprint
    for file, model in (("model", state.student), ("ema", state.ema)):
        saved = load_file(checkpoint / f"{file}.safetensors")
        assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())
    assert (state.progress.best_step, state.progress.best_psnr) == (2, 20.0)
    assert [row["step"] for row in state.progress.history] == [2]
    train_a_little(state, 1)
    assert state.progress.step == 3
    assert all(value.isfinite().all() for value in state.student.state_dict().values())


def test_an_older_checkpoint_of_other_parameters_is_refused_with_what_differs(run: RunSpec, unfinished: Path) -> None:
    other = spec(
        older_params(scales={"embedded": TINY}, seed=43),
        dataset=DATASET,
        stage="a800_test",
        resume=unfinished / "step-2",
    )
    with pytest.raises(CheckpointError, match=r"belongs to another configuration:\n  seed: 42 there, 43 here$"):
        restore(new_state(width=TINY["model"]["width"], params=run.params), other, [])
