"""What a stage's run holds in a real MLflow store, and what happens when the store or the process dies."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from taehv.params import flatten, load_params, resolved
from taehv.profiles import load_profile
from taehv.tracking import stage_run
from taehv.tracking.store import StoreError, open_store, tracking_uri, without_password

REPOSITORY = Path(__file__).parents[2]
PARAMS = load_params(REPOSITORY / "params.yaml")
PROFILE = load_profile("local", REPOSITORY / "profiles")
PROCESS = str(Path(__file__).parent / "tracked_process.py")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The main repository of this module's tests: one database for all, because creating one takes seconds."""
    return tmp_path_factory.mktemp("main-repository")


@pytest.fixture(autouse=True)
def environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(root))
    yield
    while mlflow.active_run() is not None:
        mlflow.end_run()


def stored(run_id: str | None) -> Run:
    assert run_id is not None
    return MlflowClient(tracking_uri()).get_run(run_id)


def test_a_run_says_what_ran_where_with_what(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "sad-tins")
    file = tmp_path / "history.json"
    file.write_text("{}")
    dataset = tmp_path / "dataset.json"
    dataset.write_text(json.dumps({"dataset_sha256": "ab" * 32, "split_rule": "by time"}))
    with stage_run("evaluate", PARAMS, PROFILE) as run:
        run.metrics(3, {"val/psnr": 25.5, "val/psnr/Gänse (1).mp4": 20.0})
        run.artifact(file, "reports")
        run.dataset(dataset)
    info = stored(run.run_id)
    assert info.info.status == "FINISHED"
    assert info.info.run_name == "evaluate"
    tags = info.data.tags
    assert {
        "stage": "evaluate",
        "scale": "embedded",
        "profile": "local",
        "dvc_exp_name": "sad-tins",
    }.items() <= tags.items()
    assert {"gpu_names", "gpu_count", "git_commit", "git_dirty", "params_sha256", "dataset_sha256"} <= tags.keys()
    assert info.data.params == {key: str(value) for key, value in flatten(resolved(PARAMS)).items()}
    assert info.data.metrics["val/psnr"] == 25.5
    assert info.data.metrics["val/psnr/G_nse _1_.mp4"] == 20.0
    assert info.inputs is not None
    assert info.inputs.dataset_inputs[0].dataset.digest == "ab" * 16
    client = MlflowClient(tracking_uri())
    assert [item.path for item in client.list_artifacts(info.info.run_id, "reports")] == ["reports/history.json"]
    assert {"environment.json", "params.resolved.json"} <= {i.path for i in client.list_artifacts(info.info.run_id)}
    assert info.info.artifact_uri is not None
    assert str(root / "mlartifacts") in info.info.artifact_uri
    assert not list((root / ".work/evaluate").glob("*.jsonl"))


def test_a_stage_that_fails_is_a_failed_run_with_its_reason() -> None:
    with stage_run("gate_psnr", PARAMS, PROFILE) as run:
        run.fail("psnr too low")
    info = stored(run.run_id)
    assert info.info.status == "FAILED"
    assert info.data.tags["failure_reason"] == "psnr too low"


@pytest.mark.parametrize(("error", "status"), [(ValueError("broken"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_an_exception_ends_the_run_and_goes_on(error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), stage_run("gate_psnr", PARAMS, PROFILE) as run:
        raise error
    info = stored(run.run_id)
    assert info.info.status == status
    assert info.data.tags["failed"] == "true"


def test_under_mlflow_run_each_stage_is_a_child_and_the_parent_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    client = MlflowClient(tracking_uri())
    parent = client.create_run(open_store(), run_name="mlflow run")
    for stage in ("prepare_data", "a800_test"):
        monkeypatch.setenv("MLFLOW_RUN_ID", parent.info.run_id)
        with stage_run(stage, PARAMS, PROFILE) as run:  # type: ignore[arg-type]
            assert "MLFLOW_RUN_ID" not in os.environ
        child = stored(run.run_id)
        assert child.info.run_id != parent.info.run_id
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.info.experiment_id == parent.info.experiment_id
    assert stored(parent.info.run_id).info.status == "RUNNING"


def test_a_killed_process_is_continued_in_its_run_with_each_point_once(root: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, PROCESS, str(journal)]
    killed = subprocess.Popen([*command, "1", "3", "wait"], env=environment, stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    _, run_id = killed.stdout.readline().split()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    continued = subprocess.run([*command, "2", "5"], env=environment, capture_output=True, text=True, check=True)
    assert continued.stdout.split() == ["logged", run_id]
    points = MlflowClient(tracking_uri()).get_metric_history(run_id, "train/loss")
    assert sorted(point.step for point in points) == [1, 2, 3, 4, 5]
    assert stored(run_id).info.status == "FINISHED"


def test_a_run_is_continued_although_another_stages_params_changed_meanwhile(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    with pytest.raises(RuntimeError), stage_run("a800_test", PARAMS, PROFILE, journal=journal) as first:
        raise RuntimeError("crash")
    stricter = dataclasses.replace(PARAMS, gate=dataclasses.replace(PARAMS.gate, min_psnr_db=28.0))
    with stage_run("a800_test", stricter, PROFILE, journal=journal) as second:
        second.metrics(1, {"train/loss": 0.5})
    assert second.run_id == first.run_id
    assert second.complete
    assert stored(second.run_id).data.params["gate.min_psnr_db"] == "25.0"
    assert stored(second.run_id).data.metrics["train/loss"] == 0.5


def test_a_dead_server_stops_nothing_is_announced_once_and_the_journal_keeps_all(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{closed}")
    with stage_run("prepare_data", PARAMS, PROFILE) as run:
        for step in range(3):
            run.metrics(step, {"train/loss": 1.0})
    assert run.run_id is None
    printed = capsys.readouterr().err
    assert printed.count("WARNING") == 1
    (journal,) = (root / ".work/prepare_data").glob("*.jsonl")
    assert str(journal) in printed
    assert "secret" not in printed + journal.read_text()
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [event["step"] for event in events if event["kind"] == "metrics"] == [0, 1, 2]


def test_a_store_that_mlflow_cannot_use_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}")
    with pytest.raises(StoreError, match="MLFLOW_TRACKING_URI"), stage_run("evaluate", PARAMS, PROFILE):
        pass


def test_two_processes_may_create_the_store_at_the_same_time(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DVC_ROOT": str(tmp_path)}
    processes = [
        subprocess.Popen([sys.executable, PROCESS, str(tmp_path / f"{i}.jsonl"), "1", "2"], env=environment)
        for i in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("taehv")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_passwords_are_not_shown() -> None:
    assert without_password("https://me:secret@host:1/x") == "https://***@host:1/x"
    assert without_password("sqlite:////data/mlflow.db") == "sqlite:////data/mlflow.db"
