"""One thin script per DVC stage: read the parameters, call taehv, track."""

import importlib.util
import sys

if importlib.util.find_spec("torch") is None:
    sys.exit(
        f"error: {sys.executable} is not the project's environment (it has no torch). Activate it first:\n"
        "  source .venv/bin/activate     (make setup creates it)"
    )
