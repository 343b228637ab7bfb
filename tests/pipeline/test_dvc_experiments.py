"""DVC experiments and MLflow runs find each other: grids in the queue, failed gates, killed stages."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from support.experiment_queue import experiments, run_queue, start_queue, tracked_runs, wait_for_queue
from support.failpoints import Hold
from support.project import Project

from taehv.runtime.failpoints import Failpoint

pytestmark = pytest.mark.slow

RECON = {"grid-1": 1.0, "grid-2": 20.0}
READABLE = ["--drop", ".*", "--keep", "Experiment|loss.recon|.*:psnr$|.*psnr.metrics.json:passed"]


@pytest.fixture(scope="module")
def queued(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A grid of two, and one that fails its gate, run by two workers at once. Copy it before changing it."""
    project = finished.copy(tmp_path_factory.mktemp("queued") / "project")
    # The two workers shall make a new store, at once.
    for file in project.root.glob("mlflow.db*"):
        file.unlink()
    shutil.rmtree(project.root / "mlartifacts")
    project.run("dvc", "exp", "run", "--queue", "-n", "grid", "-S", "loss.recon=1,20")
    project.run("dvc", "exp", "run", "--queue", "-n", "too-strict", "-S", "gate.min_psnr_db=99")
    try:
        statuses = run_queue(project, workers=2)
        assert statuses == {"grid-1": "Success", "grid-2": "Success", "too-strict": "Failed"}
        yield project
    finally:
        project.run("dvc", "queue", "stop", "--kill", check=False)


def test_a_grid_on_two_workers_is_whole_in_the_one_store_of_the_main_repository(queued: Project) -> None:
    for name, recon in RECON.items():
        runs = tracked_runs(queued, f"tags.dvc_exp_name = '{name}'")
        assert {run.info.run_name for run in runs} == {"a800_test", "gate_psnr", "h100_train", "evaluate"}
        for run in runs:
            assert run.info.status == "FINISHED"
            assert float(run.data.params["loss.recon"]) == recon
            artifacts = Path(urlsplit(run.info.artifact_uri).path)
            assert artifacts.is_relative_to(queued.root / "mlartifacts")
            assert (artifacts / "params.resolved.json").is_file()
        training = next(run for run in runs if run.info.run_name == "h100_train")
        assert (Path(urlsplit(training.info.artifact_uri).path) / "summary.json").is_file()
    # `too-strict` has judged the training of the store that was deleted: that link is kept, and nothing else.
    (sent,) = queued.root.glob(".work/**/sent.json")
    assert sent.parent.parent == queued.root / ".work/gate_psnr"
    (refused,) = json.loads(sent.read_text())["refused"].values()
    assert refused.startswith("link: the run with taehv.key") and "is not in this store" in refused


def test_an_experiments_mlflow_runs_are_named_in_its_outputs(queued: Project, tmp_path: Path) -> None:
    runs = {run.info.run_id: run for run in tracked_runs(queued)}
    for name in RECON:
        for stage in ("a800_test", "h100_train"):
            copy = tmp_path / f"{name}-{stage}.json"
            revision = queued.git("for-each-ref", "--format=%(objectname)", f"refs/exps/**/{name}").strip()
            queued.run("dvc", "get", ".", f"runs/{stage}/mlflow.json", "--rev", revision, "-o", str(copy))
            run = runs[json.loads(copy.read_text())["run_id"]]
            assert (run.info.run_name, run.data.tags["dvc_exp_name"]) == (stage, name)


def test_a_failed_gate_is_found_in_mlflow_by_the_experiments_name(queued: Project) -> None:
    (run,) = tracked_runs(queued, "tags.dvc_exp_name = 'too-strict'")
    assert (run.info.run_name, run.info.status) == ("gate_psnr", "FAILED")
    assert "gate failed" in run.data.tags["failure_reason"]


def test_the_documented_table_has_only_the_columns_that_it_names(queued: Project) -> None:
    header = queued.run("dvc", "exp", "show", "--csv", *READABLE).stdout.splitlines()[0].split(",")
    training = [f"runs/{stage}/metrics.json:psnr" for stage in ("a800_test", "h100_train")]
    judged = {"runs/gate_psnr.metrics.json:psnr", "runs/gate_psnr.metrics.json:passed", "reports/metrics.json:psnr"}
    wanted = {"Experiment", "loss.recon", *judged, *training}
    assert set(header) == wanted


def test_two_experiments_can_be_compared(queued: Project) -> None:
    printed = queued.run("dvc", "exp", "diff", "grid-1", "grid-2").stdout
    assert "loss.recon" in printed
    assert "psnr" in printed


def test_an_applied_experiment_is_in_the_workspace_with_all_its_files(queued: Project, tmp_path: Path) -> None:
    project = queued.copy(tmp_path / "project")
    project.run("dvc", "exp", "apply", "grid-1")
    assert yaml.safe_load((project.root / "params.yaml").read_text())["loss"]["recon"] == RECON["grid-1"]
    assert project.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    metrics = experiments(project)["grid-1"]["metrics"]["runs/h100_train/metrics.json"]["data"]
    assert project.json("runs/h100_train/metrics.json") == metrics


def test_an_experiment_becomes_a_branch(queued: Project, tmp_path: Path) -> None:
    project = queued.copy(tmp_path / "project")
    project.run("dvc", "exp", "branch", "grid-2", "more-recon")
    project.git("checkout", "-q", "more-recon")
    project.run("dvc", "checkout")
    assert yaml.safe_load((project.root / "params.yaml").read_text())["loss"]["recon"] == RECON["grid-2"]
    assert project.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."


@pytest.mark.soak
def test_a_queued_stage_killed_with_9_goes_on_where_it_was(finished: Project, tmp_path: Path) -> None:
    """In a finished pipeline: DVC applies no experiment that left stages which have never run."""
    project, hold = finished.copy(tmp_path / "project"), Hold(tmp_path / "go-on")
    project.change_profile(checkpoint_every=1)
    project.commit("a checkpoint after every step")
    queue = ["dvc", "exp", "run", "--queue", "-S", "loss.recon=3"]
    try:
        project.run(*queue, "-n", "killed", "a800_test")
        start_queue(project, 1, **hold.at(Failpoint.CHECKPOINT_IN_PLACE))
        os.kill(hold.wait(), signal.SIGKILL)
        hold.release()  # DVC's queue worker hands its environment to the experiments after it, too
        assert wait_for_queue(project) == {"killed": "Failed"}
        project.run(*queue, "-n", "again", "a800_test")
        assert run_queue(project, workers=1)["again"] == "Success"
    finally:
        project.run("dvc", "queue", "stop", "--kill", check=False)
    project.run("dvc", "exp", "apply", "again")
    assert "resumed unfinished work" in (project.root / "runs/a800_test/train.log").read_text()
    # One training is one run, whatever happened to its processes.
    (run,) = tracked_runs(project, "tags.stage = 'a800_test' and params.`loss.recon` = '3.0'")
    assert (run.info.status, run.data.tags["dvc_exp_name"]) == ("FINISHED", "again")
