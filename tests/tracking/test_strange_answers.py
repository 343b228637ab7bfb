"""What answers on the port is not always an MLflow server, and not always in time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run
from support.mlflow_servers import MlflowServer, dripping_server, json_answer, proxy_that_answers
from support.project import REPOSITORY
from support.tracked_runs import runs, steps

from taehv.config.params import load_params
from taehv.config.profiles import load_profile
from taehv.tracking import watchdog
from taehv.tracking.run import stage_run
from taehv.tracking.send_state import TrackingFolder, read_send_state
from taehv.tracking.sync import journals, sync

pytestmark = pytest.mark.slow

PARAMS = load_params(REPOSITORY / "params.yaml")
PROFILE = load_profile("local", REPOSITORY / "profiles")
NOTHING = json_answer("200 OK", b"{}")
BROKEN = json_answer("500 INTERNAL SERVER ERROR", b'{"error_code": "INTERNAL_ERROR", "message": "no room for this"}')


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def unsent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrackingFolder:
    """What a stage left that met no server: five points of each metric, and an end."""
    monkeypatch.setenv("TAEHV_ROOT", str(tmp_path))
    monkeypatch.setenv("TAEHV_TRACKING_DRAIN_SECONDS", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with stage_run("evaluate", PARAMS, PROFILE) as run:
        for step in range(5):
            run.metrics(step, {"train/loss": 1.0, "val/psnr": 20.0})
    (left,) = tmp_path.glob(".work/evaluate/unsent-*")
    return TrackingFolder(left)


def key_of(folder: TrackingFolder) -> str:
    return str(json.loads(folder.journal.read_text().splitlines()[0])["key"])


def run_with(uri: str, key: str) -> Run:
    (run,) = (run for run in runs(uri) if run.data.tags.get("taehv.key") == key)
    return run


def test_a_server_that_answers_nothing_to_everything_is_not_believed(
    unsent: TrackingFolder, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with proxy_that_answers(server.port, lambda _: NOTHING) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert not sync(journals(), said.append)
    assert "is this an MLflow server?" in said[-1]
    assert read_send_state(unsent.send_state).run_id is None
    key = key_of(unsent)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    assert sync(journals(), said.append), said
    run = run_with(server.uri, key)
    assert steps(server.uri, run.info.run_id, "val/psnr") == dict.fromkeys(range(5), 1)


def test_points_that_something_else_took_are_sent_again(
    unsent: TrackingFolder, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a proxy does it that answers for a server which is away: every second batch is taken and thrown away."""
    batches = 0

    def answer(request: bytes) -> bytes | None:
        nonlocal batches
        if b"/runs/log-batch" not in request.split(b"\r\n", 1)[0] or b"val/psnr" not in request:
            return None
        batches += 1
        return NOTHING if batches % 2 else None

    key, said = key_of(unsent), list[str]()
    with proxy_that_answers(server.port, answer) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert sync(journals(), said.append), said
    assert batches == 2
    run = run_with(server.uri, key)
    assert run.info.status == "FINISHED"
    assert steps(server.uri, run.info.run_id, "val/psnr") == dict.fromkeys(range(5), 1)


def test_what_a_servers_database_cannot_hold_is_set_aside_and_everything_else_arrives(
    unsent: TrackingFolder, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: bytes) -> bytes | None:
        return BROKEN if b"/runs/log-batch" in request and b"train/loss" in request else None

    said: list[str] = []
    with proxy_that_answers(server.port, answer) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        for _ in range(2):
            assert not sync(journals(), said.append)
            assert "too many 500 error responses" in said[-1]
            run = run_with(server.uri, key_of(unsent))
            assert run.info.status == "FINISHED"
            assert steps(server.uri, run.info.run_id, "val/psnr") == dict.fromkeys(range(5), 1)
            assert "train/loss" not in run.data.metrics


@pytest.mark.parametrize("first", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{"])
def test_a_server_that_sends_a_byte_now_and_then_does_not_hold_up_sync(
    first: bytes, unsent: TrackingFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "EXCHANGE_SECONDS", 2.0)
    said, started = list[str](), time.monotonic()
    with dripping_server(first) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert not sync(journals(), said.append)
    assert time.monotonic() - started < 60
    assert "no whole answer within 2 s" in said[-1]
    assert unsent.journal.exists()
