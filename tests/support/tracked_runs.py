"""What a store holds, and how tests run commands on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from support.project import REPOSITORY

from taehv.tracking.journal import read_lines
from taehv.tracking.send_state import TrackingFolder, read_send_state

PROCESS = str(REPOSITORY / "tests/support/tracked_process.py")
PATIENCE_S = 600.0
"""How long a stage may wait for its store where a test says nothing else: no test depends on speed."""


def environment(root: Path, **more: str) -> dict[str, str]:
    """A stage's environment, with ``root`` as the main repository."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_", "TAEHV_"))}
    own = {"PYTHONPATH": str(REPOSITORY), "TAEHV_ROOT": str(root), "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**kept, **own, "TAEHV_TRACKING_DRAIN_SECONDS": str(PATIENCE_S), **more}


def start(root: Path, *arguments: object, **more: str) -> subprocess.Popen[str]:
    """tests/support/tracked_process.py; its first argument is the tracking folder."""
    return subprocess.Popen(
        [sys.executable, PROCESS, *map(str, arguments)],
        env=environment(root, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def track(root: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`taehv track ...`"""
    process = start_track(root, *arguments, **more)
    output, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def start_track(root: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    """`taehv track ...`, going on beside the test."""
    return subprocess.Popen(
        [sys.executable, "-m", "taehv.cli", "track", *arguments],
        env=environment(root, **more),
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


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


def has_sent_metrics(folder: Path) -> bool:
    """Whether the sender has noted that training's metrics arrived. Asks no store: the stage may be creating it."""
    send_state = read_send_state(TrackingFolder(folder).send_state)
    lines = read_lines(TrackingFolder(folder).journal) if send_state.next_number else ()
    sent = (line.event for line in lines if line.event and line.event["seq"] < send_state.next_number)
    return any(event["kind"] == "metrics" and "train/loss" in event["values"] for event in sent)
