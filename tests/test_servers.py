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
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).parent.parent
SECONDS = 180


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def addresses_of(command: Sequence[str], port: int, folder: Path) -> set[str]:
    """Where a server and its children listen once it answers; it is ended afterwards."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_"))}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": str(REPOSITORY)}
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
        return {connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN}
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.slow
def test_the_mlflow_ui_listens_on_this_machine_alone(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "taehv.tracking.ui", "--port", str(port)]
    assert addresses_of(command, port, tmp_path) == {"127.0.0.1"}


@pytest.mark.slow
def test_tensorboard_listens_on_this_machine_alone(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    makefile = (REPOSITORY / "Makefile").read_text()
    found = re.search(r"\$\(BIN\)/tensorboard (.+)", makefile)
    assert found is not None
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", *found[1].split(), "--port", str(port)]
    assert addresses_of(command, port, tmp_path) == {"127.0.0.1"}


def test_no_file_of_the_project_opens_a_server_to_the_network() -> None:
    files = [REPOSITORY / "Makefile", REPOSITORY / "MLproject"]
    files += [path for folder in ("taehv", "stages", "profiles") for path in (REPOSITORY / folder).rglob("*.*")]
    everywhere = re.compile(r"0\.0\.0\.0|--bind_all|--host[= ]*(::|\*)")
    assert [path for path in files if path.suffix != ".pyc" and everywhere.search(path.read_text("utf-8"))] == []
