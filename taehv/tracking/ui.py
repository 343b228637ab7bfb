"""`make ui`: the MLflow UI of this repository's store, on this machine only."""

from __future__ import annotations

import subprocess
import sys

from taehv.tracking.store import artifact_root, open_store, tracking_uri


def main() -> int:
    """Serve until interrupted; extra arguments go to `mlflow ui`."""
    open_store()
    print("MLflow UI: http://127.0.0.1:5000 (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracking_uri()]
    command += ["--default-artifact-root", artifact_root().as_uri(), "--host", "127.0.0.1", "--workers", "1"]
    try:
        return subprocess.run([*command, *sys.argv[1:]]).returncode
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
