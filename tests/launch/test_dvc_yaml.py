"""dvc.yaml says of every stage what the code says."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import yaml
from support.project import REPOSITORY

from taehv.config.params import StageName
from taehv.config.stage_keys import STAGE_KEYS
from taehv.runtime import paths
from taehv.runtime.paths import TrainingOutputs, training_outputs

STAGES: dict[str, dict[str, Any]] = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]


def written(stage: str) -> set[str]:
    entries = STAGES[stage].get("outs", []) + STAGES[stage].get("metrics", [])
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


def test_the_five_stages_are_there() -> None:
    assert set(STAGES) == set(get_args(StageName))


@pytest.mark.parametrize("stage", get_args(StageName))
def test_a_stage_depends_on_exactly_the_params_that_its_result_depends_on(stage: StageName) -> None:
    declared = {key.replace("scales.${scale}", "@") for key in STAGES[stage]["params"]}
    assert declared == set(STAGE_KEYS[stage])


@pytest.mark.parametrize("stage", ["a800_test", "h100_train"])
def test_every_file_of_a_training_run_is_an_output(stage: str) -> None:
    outputs = training_outputs(stage)
    names = [name for name, member in vars(TrainingOutputs).items() if isinstance(member, property)]
    files = {str(getattr(outputs, name)) for name in names if not name.startswith("best_") or name == "best_model"}
    assert written(stage) == files


def test_the_files_of_prepare_data_are_its_outputs() -> None:
    files = {paths.CLIPS, paths.TEACHER, paths.QUARANTINE, paths.DATASET, paths.PREPARE_PARAMS}
    assert written("prepare_data") == {str(path) for path in files}


def test_every_code_dependency_exists() -> None:
    for stage in STAGES.values():
        for dependency in stage["deps"]:
            if dependency.startswith(("taehv", "stages")):
                assert (REPOSITORY / dependency).exists(), dependency


def test_no_dependency_is_inside_another() -> None:
    for stage in STAGES.values():
        for one in stage["deps"]:
            assert [other for other in stage["deps"] if one.startswith(f"{other}/")] == []


def test_every_output_is_ignored_by_git_before_the_first_run() -> None:
    ignored = (REPOSITORY / ".gitignore").read_text().split()
    for stage in STAGES:
        for output in written(stage):
            assert any(f"/{output}" == line or f"/{output}".startswith(line + "/") for line in ignored), output


def test_h100_train_waits_for_the_gate() -> None:
    assert str(paths.GATE_VERDICT) in STAGES["h100_train"]["deps"]
    assert str(paths.GATE_VERDICT) in written("gate_psnr")
