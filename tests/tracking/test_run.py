"""What a stage's run holds in a real MLflow store, and what happens when the store or the process dies."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from support.mlflow_servers import free_port, wait_until
from support.project import REPOSITORY
from support.tracked_runs import PATIENCE_S, has_sent_metrics, runs, sqlite, start, steps

from taehv.config.params import load_params, resolved
from taehv.config.profiles import load_profile
from taehv.config.stage_keys import flatten
from taehv.runtime.errors import Interrupted, UserError
from taehv.tracking import sender_process
from taehv.tracking.journal import Journal, read_lines
from taehv.tracking.metric_names import metric_name
from taehv.tracking.run import StageRun, stage_run
from taehv.tracking.send_state import TrackingFolder
from taehv.tracking.store import StoreError, open_store, tracking_uri
from taehv.tracking.tags import Ending, ending_of

PARAMS = load_params(REPOSITORY / "params.yaml")
PROFILE = load_profile("local", REPOSITORY / "profiles")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The main repository of this module's tests: one database for all, because creating one takes seconds."""
    return tmp_path_factory.mktemp("main-repository")


@pytest.fixture(autouse=True)
def environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TAEHV_ROOT", str(root))
    monkeypatch.setenv("TAEHV_TRACKING_DRAIN_SECONDS", str(PATIENCE_S))


def stored(run: StageRun) -> Run:
    """The run in the store, after its end."""
    (found,) = (item for item in runs(tracking_uri()) if item.data.tags.get("taehv.key") == run.key)
    return found


def test_a_run_says_what_ran_where_with_what(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "sad-tins")
    file = tmp_path / "history.json"
    file.write_text("{}")
    dataset = tmp_path / "dataset.json"
    dataset.write_text(json.dumps({"dataset_sha256": "ab" * 32, "teacher_sha256": "t", "split_rule": "by time"}))
    with stage_run("evaluate", PARAMS, PROFILE) as run:
        run.metrics(3, {"val/psnr": 25.5, "val/psnr/Gänse (1).mp4": 20.0})
        run.artifact(file, "reports")
        run.dataset(dataset)
    info = stored(run)
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
    renamed = metric_name("val/psnr/Gänse (1).mp4")
    assert renamed.startswith("val/psnr/G_nse _1_.mp4-")
    assert info.data.metrics[renamed] == 20.0
    assert info.inputs is not None
    assert info.inputs.dataset_inputs[0].dataset.digest == "ab" * 16
    client = MlflowClient(tracking_uri())
    names = json.loads(
        Path(client.download_artifacts(info.info.run_id, "metric_names.json", str(tmp_path))).read_text()
    )
    assert names["names"] == {renamed: "val/psnr/Gänse (1).mp4"}
    assert [item.path for item in client.list_artifacts(info.info.run_id, "reports")] == ["reports/history.json"]
    assert {"environment.json", "params.resolved.json"} <= {i.path for i in client.list_artifacts(info.info.run_id)}
    assert info.info.artifact_uri is not None
    assert str(root / "mlartifacts") in info.info.artifact_uri
    assert not list((root / ".work/evaluate").iterdir())


def test_a_stage_that_fails_is_a_failed_run_with_its_reason() -> None:
    with stage_run("gate_psnr", PARAMS, PROFILE) as run:
        run.fail("psnr too low")
    info = stored(run)
    assert info.info.status == "FAILED"
    assert info.data.tags["failure_reason"] == "psnr too low"


@pytest.mark.parametrize(
    ("error", "status", "tag"),
    [(ValueError("broken"), "FAILED", "failed"), (KeyboardInterrupt(), "KILLED", "interrupted")],
)
def test_an_exception_ends_the_run_and_goes_on(error: BaseException, status: str, tag: str) -> None:
    with pytest.raises(type(error)), stage_run("gate_psnr", PARAMS, PROFILE) as run:
        raise error
    info = stored(run)
    assert info.info.status == status
    assert tag in info.data.tags


def test_under_mlflow_run_each_stage_is_a_child_and_the_parent_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    client = MlflowClient(tracking_uri())
    parent = client.create_run(open_store(), run_name="mlflow run")
    for stage in ("prepare_data", "a800_test"):
        monkeypatch.setenv("MLFLOW_RUN_ID", parent.info.run_id)
        with stage_run(stage, PARAMS, PROFILE) as run:  # type: ignore[arg-type]
            assert "MLFLOW_RUN_ID" not in os.environ
        child = stored(run)
        assert child.info.run_id != parent.info.run_id
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.info.experiment_id == parent.info.experiment_id
    assert client.get_run(parent.info.run_id).info.status == "RUNNING"


def test_a_killed_process_is_continued_in_its_run_with_each_point_once(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tracking"
    killed = start(root, folder, 1, 3, "wait")
    assert killed.stdout is not None
    killed.stdout.readline()
    killed.kill()
    killed.wait()
    begin = next(read_lines(folder / "journal.jsonl")).event
    assert begin is not None
    assert start(root, folder, 2, 5).wait() == 0
    (run,) = (item for item in runs(tracking_uri()) if item.data.tags.get("taehv.key") == begin["key"])
    assert steps(tracking_uri(), run.info.run_id, "train/loss") == dict.fromkeys(range(1, 6), 1)
    assert run.info.status == "FINISHED"
    assert not folder.exists()


def test_a_run_that_failed_is_continued_as_the_same_run_although_another_stages_params_changed(tmp_path: Path) -> None:
    folder = tmp_path / "tracking"
    with pytest.raises(RuntimeError), stage_run("a800_test", PARAMS, PROFILE, folder=folder) as first:
        raise RuntimeError("crash")
    failed = stored(first)
    assert (failed.info.status, failed.data.tags["failure_reason"]) == ("FAILED", "RuntimeError: crash")
    stricter = PARAMS.model_copy(update={"gate": PARAMS.gate.model_copy(update={"min_psnr_db": 28.0})})
    with stage_run("a800_test", stricter, PROFILE, folder=folder) as second:
        second.metrics(1, {"train/loss": 0.5})
    assert second.complete
    run = stored(second)
    assert run.info.run_id == failed.info.run_id
    assert run.info.status == "FINISHED"
    assert not {"failed", "failure_reason"} & run.data.tags.keys()
    assert run.data.params["gate.min_psnr_db"] == "25.0"
    assert run.data.metrics["train/loss"] == 0.5


def test_a_damaged_position_and_a_dead_store_do_not_fail_a_stage(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("TAEHV_TRACKING_DRAIN_SECONDS", "1")
    folder = tmp_path / "tracking"
    folder.mkdir()
    (folder / "sent.json").write_text('{"schema": 1, "run_')
    with stage_run("a800_test", PARAMS, PROFILE, folder=folder) as run:
        run.metrics(1, {"train/loss": 0.5})
        ids = run.ids()
    assert (ids.run_id, ids.model_id, ids.key) == (None, None, run.key)
    assert not run.complete
    (unsent,) = (root / ".work/a800_test").glob("unsent-*")
    shutil.rmtree(unsent)


def test_a_system_with_no_room_for_the_sender_does_not_fail_the_stage_which_tries_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sender_process, "SECONDS_BETWEEN_STARTS", 0.0)
    folder = TrackingFolder(tmp_path)
    with contextlib.closing(Journal(folder.journal)) as journal:
        journal.append("begin", key="no-room", name="a800_test", parent_run_id=None, tags={})
        with no_new_files():
            sender = sender_process.SenderProcess(folder)
            sender.look_after()
            journal.append_metrics(1, {"train/loss": 0.5})
        sender.look_after()
        wait_until(lambda: has_sent_metrics(tmp_path))
        journal.append("end", status="FINISHED")
    assert sender.finish(PATIENCE_S)
    assert caplog.text.count("Too many open files") == 1


@contextlib.contextmanager
def no_new_files() -> Iterator[None]:
    """What a system says that has no room left: no file, pipe or process can be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_store_that_mlflow_cannot_use_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}")
    with pytest.raises(StoreError, match="MLFLOW_TRACKING_URI"), stage_run("evaluate", PARAMS, PROFILE):
        pass


def test_a_run_is_found_in_a_store_of_more_experiments_than_one_answer_holds(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tracking"
    with pytest.raises(RuntimeError), stage_run("a800_test", PARAMS, PROFILE, folder=folder) as first:
        raise RuntimeError("crash")
    (folder / "sent.json").unlink()
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as database, database:
        database.executemany(
            "INSERT INTO experiments (name, lifecycle_stage, creation_time) VALUES (?, 'active', ?)",
            [(f"someone else's {number}", int(time.time() * 1000) + number) for number in range(1000)],
        )
    try:
        with stage_run("a800_test", PARAMS, PROFILE, folder=folder) as second:
            second.metrics(1, {"train/loss": 0.5})
        assert second.key == first.key
        assert stored(second).data.metrics["train/loss"] == 0.5
    finally:
        with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as database, database:
            database.execute("DELETE FROM experiments WHERE name LIKE 'someone else%'")


def test_four_processes_may_create_the_store_at_the_same_time(tmp_path: Path) -> None:
    processes = [start(tmp_path, tmp_path / str(number), 1, 40) for number in range(4)]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    found = runs(sqlite(tmp_path))
    assert len(found) == 4
    for run in found:
        assert run.info.status == "FINISHED"
        assert steps(sqlite(tmp_path), run.info.run_id, "train/loss") == dict.fromkeys(range(1, 41), 1)


def test_a_database_that_is_locked_for_a_while_loses_nothing(root: Path, tmp_path: Path) -> None:
    with stage_run("evaluate", PARAMS, PROFILE) as run:
        run.metrics(0, {"val/psnr": 20.0})
        wait_until(lambda: run.run_id is not None)
        with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as other:
            other.execute("BEGIN EXCLUSIVE")
            run.metrics(1, {"val/psnr": 21.0})
            # Longer than MLflow itself waits for the lock.
            time.sleep(25)
            other.rollback()
    assert steps(tracking_uri(), stored(run).info.run_id, "val/psnr") == {0: 1, 1: 1}


def test_how_a_run_ends() -> None:
    stopped = Interrupted("SIGTERM", 143, "start it again")
    assert ending_of(stopped) == Ending("KILLED", {"interrupted": "SIGTERM"})
    assert ending_of(KeyboardInterrupt()) == Ending("KILLED", {"interrupted": "SIGINT"})
    assert ending_of(UserError("no videos")).tags["failure_reason"] == "no videos"


def test_no_tracking_library_is_loaded_into_the_training_process() -> None:
    program = "import sys, stages.training_stage; sys.exit('mlflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)
