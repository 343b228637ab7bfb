"""Every point arrives exactly once, whatever happens to the server, the network or the process."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from support.mlflow_servers import MlflowServer, free_port, proxy_that_loses_answers, silent_server, wait_until
from support.tracked_runs import has_sent_metrics, runs, sqlite, start, start_track, steps, track

from taehv.tracking.journal import Journal, is_being_written, read_lines
from taehv.tracking.send_state import TrackingFolder

pytestmark = pytest.mark.slow

KEYS = ("train/loss", "val/psnr")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path)
    server.start()
    yield server
    server.kill()


def last_step(folder: Path) -> int:
    """What training has reached, as its journal says."""
    events = [line.event for line in read_lines(folder / "journal.jsonl")]
    return max((event["step"] for event in events if event and event["kind"] == "metrics"), default=0)


def assert_each_once(uri: str, run_id: str, last: int) -> None:
    for key in KEYS:
        assert steps(uri, run_id, key) == dict.fromkeys(range(1, last + 1), 1)


@pytest.mark.parametrize("seconds", [0, pytest.param(30, marks=pytest.mark.soak)])
def test_a_server_killed_mid_run_and_started_again_has_every_point_once_and_training_went_on(
    server: MlflowServer, tmp_path: Path, seconds: float
) -> None:
    folder, end = tmp_path / "tracking", tmp_path / "end"
    process = start(tmp_path, folder, 1, 20, "until", end, MLFLOW_TRACKING_URI=server.uri)
    wait_until(lambda: any("train/loss" in run.data.metrics for run in runs(server.uri)), process)
    server.kill()
    reached = last_step(folder)
    wait_until(lambda: last_step(folder) > reached + 20, process)
    time.sleep(seconds)
    server.start()
    (run,) = runs(server.uri)
    wait_until(lambda: MlflowClient(server.uri).get_run(run.info.run_id).data.metrics["train/loss"] < 1 / reached)
    end.touch()
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert_each_once(server.uri, run.info.run_id, int(output.split()[1]))
    assert MlflowClient(server.uri).get_run(run.info.run_id).info.status == "FINISHED"
    assert not folder.exists()
    assert "does not work" in errors
    assert "answers again" in errors


def test_answers_that_are_lost_make_no_point_twice(server: MlflowServer, tmp_path: Path) -> None:
    with proxy_that_loses_answers(server.port, every=7) as uri:
        process = start(tmp_path, tmp_path / "tracking", 1, 30, MLFLOW_TRACKING_URI=uri)
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    (run,) = runs(server.uri)
    assert_each_once(server.uri, run.info.run_id, 30)
    assert run.info.status == "FINISHED"


def test_a_server_that_never_answers_leaves_everything_to_sync(tmp_path: Path) -> None:
    with silent_server() as uri:
        process = start(
            tmp_path, tmp_path / "tracking", 1, 30, MLFLOW_TRACKING_URI=uri, TAEHV_TRACKING_DRAIN_SECONDS="1"
        )
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "taehv track sync" in errors
    listed = track(tmp_path, "status").stdout
    assert "a800_test  ended; " in listed
    assert "metric points among them" in listed
    planned = track(tmp_path, "sync", "--dry-run").stdout
    assert planned.startswith("would send: a800_test")
    assert not (tmp_path / "mlflow.db").exists()
    sent = track(tmp_path, "sync")
    assert sent.returncode == 0, sent.stderr
    (run,) = runs(sqlite(tmp_path))
    assert_each_once(sqlite(tmp_path), run.info.run_id, 30)
    assert run.info.status == "FINISHED"
    assert "nothing is left" in track(tmp_path, "sync").stdout


def test_what_a_killed_process_left_is_sent_by_sync_and_its_run_is_marked(tmp_path: Path) -> None:
    folder = tmp_path / ".work/a800_test/0123456789abcdef/tracking"
    process = start(tmp_path, folder, 1, 30, "wait")
    assert process.stdout is not None
    process.stdout.readline()
    wait_until(lambda: has_sent_metrics(folder), process)
    assert "running" in track(tmp_path, "sync").stdout
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "everything has arrived" in track(tmp_path, "sync").stdout
    (run,) = runs(sqlite(tmp_path))
    assert_each_once(sqlite(tmp_path), run.info.run_id, 30)
    assert run.info.status == "KILLED"
    assert run.data.tags["interrupted"] == "the process ended without a word"
    # The training can be resumed, in the same run; its journal still knows which points there were.
    assert start(tmp_path, folder, 21, 40).wait() == 0
    (run,) = runs(sqlite(tmp_path))
    assert_each_once(sqlite(tmp_path), run.info.run_id, 40)
    assert run.info.status == "FINISHED"
    assert "interrupted" not in run.data.tags


def test_sync_waits_for_the_sender_that_a_killed_stage_left_behind(tmp_path: Path) -> None:
    folder = tmp_path / ".work/a800_test/0123456789abcdef/tracking"
    stage = start(tmp_path, folder, 1, 5, "wait", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    wait_until((folder / "sender.lock").exists, stage)
    sender = kill_and_leave_its_sender(stage)
    sender.suspend()  # on a busy machine it is as slow: it lets training go first
    sync = start_track(tmp_path, "sync")
    assert sync.stdout is not None
    assert "waiting for another process that is sending it" in sync.stdout.readline()
    sender.resume()
    said, _ = sync.communicate()
    assert "everything has arrived" in said
    (run,) = runs(sqlite(tmp_path))
    assert_each_once(sqlite(tmp_path), run.info.run_id, 5)
    assert run.info.status == "KILLED"


def test_a_training_that_starts_again_while_sync_sends_what_it_left_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    folder, end = tmp_path / ".work/a800_test/0123456789abcdef/tracking", tmp_path / "end"
    killed = start(tmp_path, folder, 1, 3, "wait", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    wait_until_ended(kill_and_leave_its_sender(killed))
    sync = hold_sync_when_it_has_begun(tmp_path, folder)
    again = start(tmp_path, folder, 4, 6, "until", end)
    wait_until(lambda: last_step(folder) >= 6, again)
    sync.send_signal(signal.SIGCONT)
    said, _ = sync.communicate()
    wait_until(lambda: has_sent_metrics(folder), again)
    (run,) = runs(sqlite(tmp_path))
    assert run.info.status == "RUNNING", said
    assert sync.returncode == 0
    assert "was started again, its own process sends the rest" in said
    end.touch()
    output, errors = again.communicate()
    assert again.returncode == 0, errors
    (run,) = runs(sqlite(tmp_path))
    assert_each_once(sqlite(tmp_path), run.info.run_id, int(output.split()[1]))
    assert run.info.status == "FINISHED"
    assert "interrupted" not in run.data.tags
    assert not folder.exists()


def kill_and_leave_its_sender(process: subprocess.Popen[str]) -> psutil.Process:
    """kill -9 of a stage that has logged its steps; the process that sends for it lives on."""
    assert process.stdout is not None
    process.stdout.readline()
    (sender,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    return sender


def wait_until_ended(orphan: psutil.Process) -> None:
    """Some containers have nobody who takes an orphan's exit code: then it stays as a zombie."""
    wait_until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE)


def hold_sync_when_it_has_begun(root: Path, folder: Path) -> subprocess.Popen[str]:
    """`taehv track sync`, stopped when it has looked at the journals and before it sends."""
    lock = folder / "sender.lock"
    lock.unlink()
    sync = start_track(root, "sync")
    wait_until(lock.exists, sync)
    sync.send_signal(signal.SIGSTOP)
    assert not TrackingFolder(folder).send_state.exists()
    return sync


def test_a_stage_that_is_killed_while_it_waits_for_a_dead_store_leaves_no_process_and_sync_sends(
    tmp_path: Path,
) -> None:
    folder = tmp_path / ".work/a800_test/0123456789abcdef/tracking"
    stage = start(tmp_path, folder, 1, 5, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    journal = folder / "journal.jsonl"
    wait_until(
        lambda: journal.exists() and any(line.event and line.event["kind"] == "end" for line in read_lines(journal)),
        stage,
    )
    assert is_being_written(journal), "it counts as running until it has ended"
    wait_until_ended(kill_and_leave_its_sender(stage))
    sent = track(tmp_path, "sync")
    assert "everything has arrived" in sent.stdout, sent.stderr
    (run,) = runs(sqlite(tmp_path))
    assert_each_once(sqlite(tmp_path), run.info.run_id, 5)
    assert run.info.status == "FINISHED"
    assert not folder.exists()


@pytest.mark.soak
def test_a_position_that_was_lost_or_is_older_than_what_arrived_makes_no_point_twice(tmp_path: Path) -> None:
    folder = tmp_path / ".work/a800_test/0123456789abcdef/tracking"
    process = start(tmp_path, folder, 1, 10, "wait")
    wait_until(lambda: has_sent_metrics(folder), process)
    process.kill()
    process.wait()
    assert "everything has arrived" in track(tmp_path, "sync").stdout
    for damage in ('{"schema": 1, "run_', ""):
        (folder / "sent.json").write_text(damage)
        assert "everything is sent again" in track(tmp_path, "sync").stdout
    (folder / "sent.json").unlink()
    assert track(tmp_path, "sync").returncode == 0
    (run,) = runs(sqlite(tmp_path))
    assert_each_once(sqlite(tmp_path), run.info.run_id, 10)


def test_a_run_that_somebody_deleted_is_made_again_from_the_journal(tmp_path: Path) -> None:
    folder, end = tmp_path / "tracking", tmp_path / "end"
    process = start(tmp_path, folder, 1, 10, "until", end)
    wait_until(lambda: has_sent_metrics(folder), process)
    (deleted,) = runs(sqlite(tmp_path))
    MlflowClient(sqlite(tmp_path)).delete_run(deleted.info.run_id)
    wait_until(lambda: any(run.data.metrics for run in runs(sqlite(tmp_path))), process)
    end.touch()
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "made again" in errors
    (run,) = runs(sqlite(tmp_path))
    assert_each_once(sqlite(tmp_path), run.info.run_id, int(output.split()[1]))


def test_a_journal_of_another_store_is_not_sent_to_this_one(server: MlflowServer, tmp_path: Path) -> None:
    folder = tmp_path / ".work/a800_test/0123456789abcdef/tracking"
    process = start(tmp_path, folder, 1, 10, "wait", MLFLOW_TRACKING_URI=server.uri)
    wait_until(lambda: has_sent_metrics(folder), process)
    process.kill()
    process.wait()
    with contextlib.closing(Journal(folder / "journal.jsonl")) as journal:
        journal.append_metrics(11, {"train/loss": 0.5})
    refused = track(tmp_path, "sync")
    assert refused.returncode == 1
    assert f"it was tracked at {server.uri}; set MLFLOW_TRACKING_URI" in refused.stdout
    sent = track(tmp_path, "sync", MLFLOW_TRACKING_URI=server.uri)
    assert "everything has arrived" in sent.stdout


def test_a_port_where_nobody_listens_stops_nothing_and_is_announced_once(tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    process = start(tmp_path, tmp_path / "tracking", 1, 5, MLFLOW_TRACKING_URI=uri, TAEHV_TRACKING_DRAIN_SECONDS="15")
    output, errors = process.communicate()
    assert output.split() == ["logged", "5"]
    assert process.returncode == 0
    assert errors.count("does not work") == 1


@pytest.mark.soak
def test_a_refused_point_is_set_aside_alone(tmp_path: Path) -> None:
    """A store that takes all but one: here the database itself refuses a value."""
    folder = tmp_path / ".work/a800_test/0123456789abcdef/tracking"
    first = start(tmp_path, folder, 1, 3, "wait")
    wait_until(lambda: has_sent_metrics(folder), first)
    first.kill()
    first.wait()
    assert "everything has arrived" in track(tmp_path, "sync").stdout
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute(
            "CREATE TRIGGER picky BEFORE INSERT ON metrics WHEN NEW.step = 7 AND NEW.key = 'val/psnr' "
            "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        )
    second = start(tmp_path, folder, 4, 10)
    _, errors = second.communicate()
    assert "set aside" in errors
    assert "not this one" in track(tmp_path, "sync").stdout
    (run,) = runs(sqlite(tmp_path))
    assert steps(sqlite(tmp_path), run.info.run_id, "train/loss") == dict.fromkeys(range(1, 11), 1)
    assert set(steps(sqlite(tmp_path), run.info.run_id, "val/psnr")) == set(range(1, 11)) - {7}
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("DROP TRIGGER picky")
    assert track(tmp_path, "sync").returncode == 0
    assert_each_once(sqlite(tmp_path), run.info.run_id, 10)
