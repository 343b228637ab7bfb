"""A team's store: `mlflow server` on PostgreSQL, and on sqlite, with several stages at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.mlflow_servers import MlflowServer, wait_until
from support.postgresql import postgresql
from support.tracked_runs import has_sent_metrics, runs, start, steps, track

from taehv.tracking.journal import read_lines

pytestmark = pytest.mark.slow

KEYS = ("train/loss", "val/psnr")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.soak)])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MlflowServer]:
    if request.param == "sqlite":
        yield from started(MlflowServer(tmp_path))
        return
    with postgresql() as database:
        yield from started(MlflowServer(tmp_path, database))


def started(server: MlflowServer) -> Iterator[MlflowServer]:
    server.start()
    try:
        yield server
    finally:
        server.kill()


def test_two_stages_at_once_a_killed_server_and_a_killed_stage_lose_nothing_and_double_nothing(
    server: MlflowServer, tmp_path: Path
) -> None:
    end = tmp_path / "end"
    folders = [tmp_path / f".work/a800_test/{number}/tracking" for number in range(3)]
    first, second = (
        start(tmp_path, folder, 1, 20, "until", end, MLFLOW_TRACKING_URI=server.uri) for folder in folders[:2]
    )
    for process, folder in ((first, folders[0]), (second, folders[1])):
        wait_until(lambda folder=folder: has_sent_metrics(folder), process)
    server.kill()
    reached = [last_step(folder) for folder in folders[:2]]
    for process, folder, step in zip((first, second), folders, reached, strict=False):
        wait_until(lambda folder=folder, step=step: last_step(folder) > step + 20, process)
    server.start()
    end.touch()
    last = []
    for process in (first, second):
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        last.append(int(output.split()[1]))
    killed = start(tmp_path, folders[2], 1, 10, "wait", MLFLOW_TRACKING_URI=server.uri)
    wait_until(lambda: has_sent_metrics(folders[2]), killed)
    killed.kill()
    killed.wait()
    assert "everything has arrived" in track(tmp_path, "sync", MLFLOW_TRACKING_URI=server.uri).stdout
    found = runs(server.uri)
    assert sorted(run.info.status for run in found) == ["FINISHED", "FINISHED", "KILLED"]
    for run in found:
        known = {key: steps(server.uri, run.info.run_id, key) for key in KEYS}
        longest = max(known[KEYS[0]])
        assert longest in (*last, 10)
        assert known == dict.fromkeys(KEYS, dict.fromkeys(range(1, longest + 1), 1))


def test_a_postgresql_database_works_without_a_server_and_keeps_artifacts_in_the_main_repository(
    tmp_path: Path,
) -> None:
    with postgresql() as database:
        processes = [
            start(tmp_path, tmp_path / str(number), 1, 40, MLFLOW_TRACKING_URI=database) for number in range(2)
        ]
        assert [process.wait() for process in processes] == [0, 0]
        found = runs(database)
        assert [run.info.status for run in found] == ["FINISHED", "FINISHED"]
        for run in found:
            assert steps(database, run.info.run_id, "train/loss") == dict.fromkeys(range(1, 41), 1)
            assert str(tmp_path / "mlartifacts") in str(run.info.artifact_uri)
            files = {item.path for item in MlflowClient(database).list_artifacts(run.info.run_id)}
            assert "environment.json" in files


def last_step(folder: Path) -> int:
    """What training has reached, as its journal says."""
    events = [line.event for line in read_lines(folder / "journal.jsonl")]
    return max((event["step"] for event in events if event and event["kind"] == "metrics"), default=0)
