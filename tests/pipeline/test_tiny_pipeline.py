"""What DVC does with the stages: real repositories, real processes, small numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.project import Project

pytestmark = pytest.mark.slow

FAILED_STAGE = 255
"""What `dvc repro` returns when a stage fails."""


def stages_that_would_run(project: Project) -> list[str]:
    printed = project.run("dvc", "repro", "--dry").stdout
    return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")]


def test_every_declared_output_is_there_and_git_sees_none_of_them(finished: Project) -> None:
    assert finished.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    assert finished.git("status", "--porcelain") == ""


def test_a_second_run_runs_nothing(finished: Project) -> None:
    assert stages_that_would_run(finished) == []


def test_another_loss_weight_reruns_training_but_not_prepare_data(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    project.change_params({"loss": {"recon": 20.0}})
    assert stages_that_would_run(project) == ["a800_test", "h100_train"]


def test_another_gate_limit_reruns_only_the_gate_and_what_is_behind_it(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    project.change_params({"gate": {"min_psnr_db": 99.0}})
    result = project.run("dvc", "repro", check=False)
    assert result.returncode == FAILED_STAGE
    assert "a800_test" not in [line.split("'")[1] for line in result.stdout.splitlines() if "Running stage" in line]
    assert "must be > 99 dB" in result.stderr
    assert project.json("runs/gate_psnr.json")["passed"] is False
    assert "h100_train" not in result.stdout.split("Running stage 'gate_psnr'")[1]


def test_the_two_trainings_are_compared_in_mlflow_without_editing(finished: Project) -> None:
    client = MlflowClient(f"sqlite:///{finished.root}/mlflow.db")
    experiment = client.get_experiment_by_name("taehv")
    assert experiment is not None
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    a, b = found["a800_test"], found["h100_train"]
    assert a.data.params.keys() == b.data.params.keys()
    assert a.data.tags.keys() - {"mlflow.parentRunId"} == b.data.tags.keys() - {"mlflow.parentRunId"}
    names = {run.info.run_name: {key for key in run.data.metrics if not key.startswith("system/")} for run in (a, b)}
    assert names["a800_test"] == names["h100_train"]
    assert {"val/psnr", "train/loss", "best/psnr_db", "test/round_trip/psnr_db"} <= names["a800_test"]
    steps = [[p.step for p in client.get_metric_history(run.info.run_id, "val/psnr")] for run in (a, b)]
    assert steps == [[0, 8, 16, 24], [0, 8, 16, 24, 32]]
    result = finished.run("taehv.cli", "compare", str(a.info.run_id), str(b.info.run_id), check=False)
    from_files = finished.run("taehv.cli", "compare", "a800_test", "h100_train", check=False)
    assert result.returncode == from_files.returncode == {"pass": 0, "warn": 0, "fail": 1}[parity_of(finished)]
    assert result.stdout.splitlines()[3:] == from_files.stdout.splitlines()[3:]


def parity_of(project: Project) -> str:
    return str(project.json("reports/parity.json")["verdict"])


def test_the_model_that_passed_is_the_champion_until_a_better_one_comes(finished: Project) -> None:
    client = MlflowClient(f"sqlite:///{finished.root}/mlflow.db")
    champion = client.get_model_version_by_alias("taehv-hunyuan_video-embedded", "champion")
    assert champion.source == f"models:/{finished.json('runs/h100_train/mlflow.json')['model_id']}"
    assert "champion: the first: test PSNR" in str(champion.description)
    measured = finished.json("reports/evaluation.json")["models"]["h100_train"]["round_trip"]["psnr_db"]
    assert float(champion.tags["test_psnr_db"]) == measured
    assert champion.tags["dataset_sha256"] == finished.json("data/dataset.json")["dataset_sha256"]


def test_the_profile_is_invisible_to_dvc(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    local = (project.root / "profiles/local.yaml").read_text()
    (project.root / "profiles/other.yaml").write_text(local.replace("name: local", "name: other"))
    printed = project.run("dvc", "repro", "--dry", TAEHV_PROFILE="other").stdout
    assert "Running stage" not in printed


def test_h100_train_refuses_a_verdict_on_other_files(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    history = project.root / "runs/a800_test/validation_history.json"
    changed = json.loads(history.read_text())
    changed["history"][-1]["psnr"] += 1.0
    history.unlink()
    history.write_text(json.dumps(changed))
    result = project.run("stages.h100_train", check=False)
    assert result.returncode == 1
    assert "validation_history.json" in result.stderr
    assert "Traceback" not in result.stderr


def test_h100_train_refuses_without_a_verdict(tiny_project: Project) -> None:
    result = tiny_project.run("stages.h100_train", check=False)
    assert result.returncode == 1
    assert "gate" in result.stderr
    assert "Traceback" not in result.stderr


def test_h100_train_continues_the_named_a800_checkpoint(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    project.change_params({"h100_train": {"resume_from_a800_step": 8}})
    project.run("stages.h100_train")
    metrics = project.json("runs/h100_train/summary.json")
    assert metrics["resumed_from"] == {"stage": "a800_test", "step": 8}
    steps = [row["step"] for row in project.json("runs/h100_train/validation_history.json")["history"]]
    assert steps == [0, 8, 16, 24, 32]


@pytest.mark.parametrize(
    ("before", "wanted"), [pytest.param(*pair, marks=pytest.mark.soak) for pair in ((0.1, 10), (10.0, 20))]
)
def test_an_experiment_shows_in_dvc_and_in_mlflow(tiny_project: Project, before: float, wanted: int) -> None:
    project = tiny_project
    project.change_params({"loss": {"recon": before}})
    project.commit("baseline")
    project.run("dvc", "exp", "run", "-n", "more-recon", "-S", f"loss.recon={wanted}")
    shown = json.loads(project.run("dvc", "exp", "show", "--json").stdout)
    assert "more-recon" in json.dumps(shown)
    client = MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    experiment = client.get_experiment_by_name("taehv")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.dvc_exp_name = 'more-recon'")
    assert {run.data.tags["stage"] for run in runs} == {"a800_test", "gate_psnr", "h100_train", "evaluate"}
    assert {run.data.params["loss.recon"] for run in runs} == {f"{wanted}.0"}
