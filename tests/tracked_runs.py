"""What a store holds, and how tests run commands on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

REPOSITORY = Path(__file__).parents[1]
PROCESS = str(REPOSITORY / "tests/tracking/tracked_process.py")


def environment(root: Path, **more: str) -> dict[str, str]:
    """A stage's environment, with ``root`` as the main repository."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_", "TAEHV_"))}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "DVC_ROOT": str(root), "MLFLOW_DISABLE_TELEMETRY": "true", **more}


def start(root: Path, *arguments: object, **more: str) -> subprocess.Popen[str]:
    """tests/tracking/tracked_process.py; its first argument is the tracking folder."""
    return subprocess.Popen(
        [sys.executable, PROCESS, *map(str, arguments)],
        env=environment(root, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def track(root: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`taehv track ...`"""
    command = [sys.executable, "-m", "taehv.cli", "track", *arguments]
    return subprocess.run(command, env=environment(root, **more), cwd=root, capture_output=True, text=True)


def runs(uri: str) -> list[Run]:
    """All runs of the default experiment, oldest first."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("taehv")
    found = [] if experiment is None else client.search_runs([experiment.experiment_id])
    return sorted(found, key=lambda run: run.info.start_time)


def steps(uri: str, run_id: str, key: str) -> Counter[int]:
    """How often the store has each step of a metric."""
    return Counter(point.step for point in MlflowClient(uri).get_metric_history(run_id, key))


def sqlite(root: Path) -> str:
    return f"sqlite:///{root / 'mlflow.db'}"
