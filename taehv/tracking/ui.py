"""`make ui`: the MLflow UI of this repository's store, on this machine only."""

from __future__ import annotations

import subprocess
import sys

from taehv.errors import exit_with
from taehv.tracking.secrets import without_secrets
from taehv.tracking.store import artifact_root, is_database, open_store, store_errors, tracking_uri


def main() -> int:
    """Serve until interrupted; extra arguments go to `mlflow ui`. A server has its own UI: then its address is said.

    Raises:
        StoreError: MLFLOW_TRACKING_URI cannot be used, or its server does not answer.
    """
    with store_errors():
        open_store()
    if not is_database(tracking_uri()):
        print(f"MLflow UI: {without_secrets(tracking_uri())} (the server of MLFLOW_TRACKING_URI shows it)")
        return 0
    print("MLflow UI: http://127.0.0.1:5000 (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracking_uri()]
    command += ["--default-artifact-root", artifact_root().as_uri(), "--host", "127.0.0.1", "--workers", "1"]
    try:
        return subprocess.run([*command, *sys.argv[1:]]).returncode
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    exit_with(main)
