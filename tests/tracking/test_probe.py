"""The tracking store is tried before a run, quickly, and nothing is left in it."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from taehv.tracking import probe as probe_module
from taehv.tracking.probe import Probe, probe_store, reach_store, within
from taehv.tracking.store import local_artifacts, open_store, tracking_uri

Look = Callable[[], Probe]
BOTH_WAYS = pytest.mark.parametrize("look", [probe_store, reach_store])


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("TAEHV_ROOT", str(tmp_path))


class RefusingServer(BaseHTTPRequestHandler):
    """Answers nothing but its date, which is an hour ahead."""

    def do_GET(self) -> None:
        self.send_error(401)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() + 3600)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def refusing_server() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), RefusingServer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://someone:secret@127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_store_that_works_keeps_no_trace() -> None:
    experiment = open_store()
    probe = probe_store()
    assert probe.dead is None and probe.unusable is None
    client = MlflowClient(tracking_uri())
    tags = client.get_experiment(experiment).tags
    assert not [name for name in tags if "doctor" in name]
    assert client.search_runs([experiment]) == []
    quick = reach_store()
    assert (quick.dead, quick.what) == (None, "can be written")


@BOTH_WAYS
def test_a_store_that_is_not_there_yet_is_not_created(look: Look, tmp_path: Path) -> None:
    probe = look()
    assert probe.dead is None and probe.unusable is None
    assert "will be created" in probe.what
    assert list(tmp_path.iterdir()) == []


@BOTH_WAYS
def test_a_database_that_is_none_is_told(look: Look, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is not a database, but it is in its place" * 100)
    probe = look()
    assert probe.dead is not None or probe.unusable is not None


@pytest.mark.slow
@BOTH_WAYS
def test_a_server_that_accepts_and_never_answers_is_given_up(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:secret@127.0.0.1:{silent.getsockname()[1]}")
        probe = look()
    assert probe.dead is not None
    assert "secret" not in probe.uri + probe.dead


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The URI of a server that says the same to everyone, whatever it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    with client, contextlib.suppress(OSError):
                        client.recv(65536)
                        client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@BOTH_WAYS
@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.6\r\n", b"220 mail.example.org ESMTP\r\n", b"\0\xff" * 40_000])
def test_another_service_on_the_port_is_told(look: Look, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(answer) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        probe = look()
    assert probe.dead is not None and "what answers there is no HTTP server" in probe.dead


@pytest.mark.parametrize("date", ["yesterday", "Mon, 99 Nov 2026 16:30:55 GMT", "Fri, 01 Jan 99999 00:00:00 GMT"])
def test_a_server_whose_date_is_none_answers_and_its_date_is_told(date: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(f"HTTP/1.0 200 OK\r\nDate: {date}\r\n\r\nOK".encode()) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        probe = reach_store()
    assert (probe.dead, probe.unusable, probe.server_ahead_s) == (None, None, None)
    assert probe.what == f"answers; its clock cannot be compared, its Date is {date!r}"


@BOTH_WAYS
@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:50x0", "http://127.0.0.1:70000", "http://u:se/cret@h:80", "http://[1"]
)
def test_an_address_that_is_none_can_never_be_used(look: Look, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    probe = look()
    assert probe.unusable is not None and "not an address like http://host:5000" in probe.unusable
    assert "cret" not in probe.unusable


@BOTH_WAYS
@pytest.mark.parametrize("uri", ["http://127.0.0.1:9/a folder", "http://mlflow..example.org:5000"])
def test_an_address_that_cannot_be_asked_is_told(look: Look, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert look().dead is not None


def test_a_server_without_an_answer_tells_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reach_store().server_ahead_s is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    probe = reach_store()
    assert probe.dead is not None and probe.server_ahead_s is None


def test_artifacts_are_on_this_machine_only_with_a_database_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert local_artifacts() == tmp_path / "mlartifacts"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert local_artifacts() is None


@contextlib.contextmanager
def dripping(before: bytes, seconds: float = 0.5) -> Iterator[str]:
    """The URI of a server that says something at once, and then a byte now and then, for ever."""
    stopped = threading.Event()

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                threading.Thread(target=drip, args=(client,), daemon=True).start()

    def drip(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.recv(65536)
            client.sendall(before)
            while not stopped.wait(seconds):
                client.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            stopped.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


DRIPS = {
    "header": b"HTTP/1.0 200 OK\r\nX-Slow: ",
    "body": b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n",
    "error's body": b"HTTP/1.0 500 Error\r\nContent-Length: 100000\r\n\r\n",
}


@pytest.mark.slow
@BOTH_WAYS
@pytest.mark.parametrize("part", DRIPS)
def test_a_server_that_answers_a_byte_now_and_then_is_given_up(
    look: Look, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket's timeout bounds each receive, and none of these is late."""
    monkeypatch.setattr(probe_module, "PROBE_SECONDS", 6)
    with dripping(DRIPS[part]) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        started = time.monotonic()
        probe = look()
    assert time.monotonic() - started < 30
    # Its date can be asked where the header comes at once: then it answers, and only MLflow finds it dead.
    if look is probe_store or part == "header":
        assert probe.dead is not None and "within" in probe.dead


def test_a_call_that_comes_in_time_answers_or_raises_as_it_would_alone() -> None:
    assert within(5, lambda: 7) == 7
    with pytest.raises(KeyError, match="NOT_THERE"):
        within(5, lambda: os.environ["NOT_THERE"])


def test_a_database_that_somebody_else_is_writing_is_told_after_a_moment(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(database)) as writer:
        writer.execute("CREATE TABLE runs (id)")
        writer.execute("BEGIN IMMEDIATE")
        probe = reach_store()
    assert probe.dead is not None and "locked" in probe.dead


def test_a_server_that_refuses_is_one_that_answers_and_tells_its_time(
    refusing_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", refusing_server)
    probe = reach_store()
    assert (probe.dead, probe.what) == (None, "answers")
    assert probe.server_ahead_s is not None and 3500 < probe.server_ahead_s < 3700
    assert "secret" not in probe.uri
