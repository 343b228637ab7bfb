"""`make ui`: the MLflow UI of this repository's store, on this machine only."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Sequence

import psutil

from taehv.runtime.errors import UserError, exit_with
from taehv.tracking.secrets import without_secrets
from taehv.tracking.store import artifact_root, is_database, open_store, store_errors, tracking_uri

HOST = "127.0.0.1"
PORT = 5000
"""MLflow's own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; extra arguments go to `mlflow ui`. A server has its own UI: then its address is said.

    Raises:
        StoreError: MLFLOW_TRACKING_URI cannot be used, or its server does not answer.
        UserError: another program has the port.
    """
    parser = argparse.ArgumentParser(prog="make ui", description="MLflow's UI of this repository's store.")
    parser.add_argument("--port", type=int, default=PORT, help="of this machine (make ui PORT=N; default: %(default)s)")
    options, others = parser.parse_known_args(arguments)
    if is_database(tracking_uri()):
        check_port(options.port)
    with store_errors():
        open_store()
    if not is_database(tracking_uri()):
        print(f"MLflow UI: {without_secrets(tracking_uri())} (the server of MLFLOW_TRACKING_URI shows it)")
        return 0
    print(f"MLflow UI: http://{HOST}:{options.port} (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(options.port), "--workers", "1"]
    # Not on the command line, which every user of the machine can read: a database's address has its password.
    store = {
        "MLFLOW_BACKEND_STORE_URI": tracking_uri(),
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": artifact_root().as_uri(),
    }
    try:
        return subprocess.run([*command, *others], env={**os.environ, **store}).returncode
    except KeyboardInterrupt:
        return 0


def check_port(port: int) -> None:
    """Raises UserError where nothing can listen on it; MLflow would try again for ever, without a word."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do, or a port rests for a minute
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"nothing can listen on {HOST}:{port} ({_reason(port, error)}): end what is there, or choose another "
                f"port with make ui PORT={port + 1 if port < 65535 else PORT}"
            ) from error


def _reason(port: int, error: Exception) -> str:
    try:
        users = {c.pid for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.pid is not None}
    except psutil.Error:
        users = set()
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{said}; process {', '.join(map(str, sorted(users)))} has it" if users else said


if __name__ == "__main__":
    exit_with(main)
