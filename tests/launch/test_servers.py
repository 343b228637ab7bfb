"""The servers that the Makefile starts listen on this machine alone."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support.mlflow_servers import MlflowServer, free_port
from support.project import REPOSITORY

SECONDS = 300


@dataclass(frozen=True)
class Serving:
    """A server and its children, once it answers."""

    addresses: set[str]
    """Where they listen."""
    command_lines: list[str]


def serving(command: Sequence[str], port: int, folder: Path, **own: str) -> Serving:
    """Start a server, look at it, and end it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_"))}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": str(REPOSITORY), **own}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and server.poll() is None:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        else:
            pytest.fail((folder / "log").read_text())
        main = psutil.Process(server.pid)
        family = [main, *main.children(recursive=True)]
        found = [connection for process in family for connection in process.net_connections("tcp")]
        addresses = {connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN}
        return Serving(addresses, [" ".join(process.cmdline()) for process in family])
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.slow
def test_the_mlflow_ui_listens_on_this_machine_alone_and_shows_nobody_the_address_of_the_store(tmp_path: Path) -> None:
    """Every user of the machine can read command lines; a database's address has its password."""
    port = free_port()
    command = [sys.executable, "-m", "taehv.tracking.ui", "--port", str(port)]
    ui = serving(command, port, tmp_path, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/secret-place.db")
    assert ui.addresses == {"127.0.0.1"}
    assert len(ui.command_lines) > 1 and any("mlflow" in line for line in ui.command_lines)
    assert [line for line in ui.command_lines if "secret-place" in line] == []
    assert (tmp_path / "secret-place.db").exists()


def ui(folder: Path, uri: str) -> subprocess.CompletedProcess[str]:
    """`make ui` with a MLFLOW_TRACKING_URI."""
    environment = {**os.environ, "TAEHV_ROOT": str(folder), "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "taehv.tracking.ui", "--port", str(free_port())]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)


def test_a_port_that_somebody_has_is_told_before_the_address_is_shown(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = {**os.environ, "TAEHV_ROOT": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "taehv.tracking.ui", "--port", str(port)]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: nothing can listen on 127.0.0.1:{port} (Address already in use; process {os.getpid()} has it): "
        f"end what is there, or choose another port with make ui PORT={port + 1}\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("uri", ["nonsense://here", "http://127.0.0.1:50x0", "http://me:secret@127.0.0.1:9"])
def test_a_store_that_does_not_work_has_no_ui_and_says_why(uri: str, tmp_path: Path) -> None:
    result = ui(tmp_path, uri)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert "MLFLOW_TRACKING_URI" in result.stderr and "secret" not in result.stderr


@pytest.mark.slow
def test_a_server_shows_its_own_ui(tmp_path: Path) -> None:
    server = MlflowServer(tmp_path)
    server.start()
    try:
        result = ui(tmp_path, server.uri)
    finally:
        server.kill()
    assert result.returncode == 0, result.stderr
    assert server.uri in result.stdout


@pytest.mark.slow
def test_tensorboard_listens_on_this_machine_alone(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    makefile = (REPOSITORY / "Makefile").read_text()
    found = re.search(r"\$\(BIN\)/tensorboard\" (.+?) \$\(if", makefile)
    assert found is not None
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", *found[1].split(), "--port", str(port)]
    assert serving(command, port, tmp_path).addresses == {"127.0.0.1"}


def test_no_file_of_the_project_opens_a_server_to_the_network() -> None:
    files = [REPOSITORY / "Makefile", REPOSITORY / "MLproject"]
    files += [path for folder in ("taehv", "stages", "profiles") for path in (REPOSITORY / folder).rglob("*.*")]
    everywhere = re.compile(r"0\.0\.0\.0|--bind_all|--host[= ]*(::|\*)")
    assert [path for path in files if path.suffix != ".pyc" and everywhere.search(path.read_text("utf-8"))] == []
