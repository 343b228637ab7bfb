"""`mlflow run`: a parent run over the pipeline's stages, params for one run, git URIs, environment managers."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from support.mlflow_servers import free_port, wait_until
from support.project import Project

pytestmark = pytest.mark.slow

EXPERIMENT = "by-mlflow-run"


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A finished pipeline: what is not changed is not run again."""
    return finished.copy(tmp_path / "project")


@dataclass(frozen=True)
class Tracked:
    """What `mlflow run` left in the store."""

    parent: Run
    children: dict[str, Run]


def mlflow_run(project: Project, uri: str, *arguments: str, manager: str = "local") -> subprocess.CompletedProcess[str]:
    """`mlflow run URI ...`, in the project."""
    options = ["--env-manager", manager, "--experiment-name", EXPERIMENT, "-P", "profile=local", *arguments]
    return project.run("mlflow", "run", uri, *options, check=False)


def tracked(root: Path) -> Tracked:
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} <= {parent.info.run_id}
    return Tracked(parent, {str(run.info.run_name): run for run in children})


@pytest.fixture(scope="module")
def edited(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """After `mlflow run` of a params.yaml that someone has edited."""
    project = finished.copy(tmp_path_factory.mktemp("edited") / "project")
    project.change_params({"gate": {"min_psnr_db": 5.0}, "evaluate": {"parity_tolerance_db": 1.5}})
    result = mlflow_run(project, ".")
    assert result.returncode == 0, result.stderr
    return project


def test_it_is_the_parent_of_the_stages_and_has_the_pipelines_status(edited: Project) -> None:
    runs = tracked(edited.root)
    assert runs.parent.info.status == "FINISHED"
    assert {run.info.status for run in runs.children.values()} == {"FINISHED"}
    assert {"gate_psnr", "evaluate"} <= runs.children.keys()


@pytest.mark.soak
def test_params_for_one_run_become_a_dvc_experiment_and_leave_the_workspace_alone(
    project: Project, edited: Project
) -> None:
    params = (project.root / "params.yaml").read_bytes()
    result = mlflow_run(project, ".", "-P", "set=gate.min_psnr_db=5 evaluate.parity_tolerance_db=1.5")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (project.root / "params.yaml").read_bytes() == params
    assert project.git("status", "--porcelain") == ""
    assert project.json("runs/gate_psnr.json")["min_psnr_db"] == 4.0
    runs = tracked(project.root)
    gate = runs.children["gate_psnr"]
    assert runs.parent.info.status == gate.info.status == "FINISHED"
    # The same as an edited file.
    by_hand = tracked(edited.root).children["gate_psnr"]
    assert gate.data.params == by_hand.data.params
    assert gate.data.tags["params_sha256"] == by_hand.data.tags["params_sha256"]
    assert gate.data.metrics == by_hand.data.metrics
    name = gate.data.tags["dvc_exp_name"]
    assert name in json.dumps(json.loads(project.run("dvc", "exp", "show", "--json").stdout))
    project.run("dvc", "exp", "apply", name)
    applied = yaml.safe_load((project.root / "params.yaml").read_text(encoding="utf-8"))
    assert (applied["gate"]["min_psnr_db"], applied["evaluate"]["parity_tolerance_db"]) == (5.0, 1.5)


def test_params_for_one_run_that_fail_the_gate_fail_the_parent_run_too(project: Project) -> None:
    result = mlflow_run(project, ".", "-P", "set=gate.min_psnr_db=99")
    assert result.returncode == 1, result.stdout + result.stderr
    assert project.json("runs/gate_psnr.json")["min_psnr_db"] == 4.0
    runs = tracked(project.root)
    gate = runs.children["gate_psnr"]
    assert runs.parent.info.status == gate.info.status == "FAILED"
    assert gate.data.params["gate.min_psnr_db"] == "99.0"


def test_wrong_params_are_refused_before_anything_runs(project: Project) -> None:
    result = mlflow_run(project, ".", "-P", "set=loss.rcon=1 seed=abc")
    assert result.returncode == 1
    assert "loss.rcon: unknown key" in result.stderr
    assert "seed: must be an integer >= 0 and <= 4294967295, got 'abc'" in result.stderr
    assert tracked(project.root).children == {}
    assert tracked(project.root).parent.info.status == "FAILED"


@contextlib.contextmanager
def git_server(root: Path) -> Iterator[str]:
    """The URI under which everything below ``root`` can be cloned."""
    port = free_port()
    command = ["git", "daemon", "--export-all", "--reuseaddr", f"--base-path={root}", "--listen=127.0.0.1"]
    process = subprocess.Popen([*command, f"--port={port}", str(root)], stderr=subprocess.DEVNULL)
    uri = f"git://127.0.0.1:{port}"

    def answers() -> bool:
        asked = subprocess.run(["git", "ls-remote", f"{uri}/project"], capture_output=True)
        return asked.returncode == 0

    try:
        wait_until(answers, process)
        yield uri
    finally:
        process.terminate()
        process.wait()


@pytest.mark.soak
def test_a_git_uri_runs_in_a_clone_and_is_tracked_where_the_command_was_given(
    tiny_project: Project, tmp_path: Path
) -> None:
    elsewhere = Project(tmp_path / "elsewhere")
    elsewhere.root.mkdir()
    with git_server(tmp_path) as uri:
        result = mlflow_run(elsewhere, f"{uri}/project", "-P", "set=seed=3")
    assert result.returncode == 0, result.stdout + result.stderr
    runs = tracked(elsewhere.root)
    assert runs.parent.info.status == "FINISHED"
    assert runs.parent.data.tags["mlflow.source.name"] == f"{uri}/project"
    assert set(runs.children) == {"prepare_data", "a800_test", "gate_psnr", "h100_train", "evaluate"}
    assert {run.data.params["seed"] for run in runs.children.values()} == {"3"}
    commit = tiny_project.git("rev-parse", "HEAD").strip()
    assert runs.parent.data.tags["mlflow.source.git.commit"] == commit


def test_without_pyenv_mlflows_default_ends_before_the_pipeline_starts(project: Project) -> None:
    """MLflow ends before any of our code runs, looking for a program `None`; docs/ecosystem.md names the flag."""
    places = [Path(sys.executable).parent, "/usr/bin", "/bin"]
    environment = {"PATH": ":".join(map(str, places)), "MLFLOW_ENV_ROOT": str(project.root / "envs")}
    result = project.run("mlflow", "run", ".", "-P", "profile=local", check=False, **environment)
    assert result.returncode != 0
    assert "No such file or directory: 'None'" in result.stderr
    conda = project.run("mlflow", "run", ".", "--env-manager", "conda", check=False)
    assert "Set `--env-manager` to 'virtualenv' or 'local'" in conda.stderr


@pytest.mark.soak
@pytest.mark.parametrize(("manager", "program"), [("virtualenv", "pyenv"), ("uv", "uv")])
def test_an_environment_manager_builds_an_environment_in_which_the_pipeline_runs(
    project: Project, tmp_path: Path, manager: str, program: str
) -> None:
    """Downloads everything that requirements.lock pins."""
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program} on PATH")
    project.change_params({"gate": {"min_psnr_db": 5.0}})
    options = ["--env-manager", manager, "--experiment-name", EXPERIMENT]
    result = project.run("mlflow", "run", ".", *options, check=False, MLFLOW_ENV_ROOT=str(tmp_path / "environments"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert tracked(project.root).children["gate_psnr"].info.status == "FINISHED"
