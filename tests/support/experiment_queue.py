"""Waiting for DVC's experiment queue, as a person does: with `dvc queue status`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from support.project import Project

ENDED = ("Success", "Failed")


def queue_status(project: Project) -> dict[str, str]:
    """Status by experiment name."""
    lines = project.run("dvc", "queue", "status").stdout.splitlines()
    tasks = [line.split() for line in lines if line.endswith(("Queued", "Running", *ENDED))]
    return {words[1]: words[-1] for words in tasks}


def start_queue(project: Project, workers: int, **environment: str) -> None:
    """Start the workers, which go on in the background.

    They keep the command's output open as long as they live, so nobody waits for its end here.
    """
    subprocess.run(
        [sys.executable, "-m", "dvc", "queue", "start", "-j", str(workers)],
        cwd=project.root,
        env=project.environment(environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )


def run_queue(project: Project, workers: int) -> dict[str, str]:
    """Start the workers and wait until every experiment has ended; returns the status of each."""
    start_queue(project, workers)
    return wait_for_queue(project)


def wait_for_queue(project: Project) -> dict[str, str]:
    """Wait until every experiment has ended; returns the status of each."""
    while True:
        statuses = queue_status(project)
        if all(status in ENDED for status in statuses.values()):
            return statuses
        time.sleep(5.0)  # asking takes DVC two seconds of the processor that the experiments need


def experiments(project: Project) -> dict[str, dict[str, Any]]:
    """What `dvc exp show` says of each experiment that succeeded: its metrics by file, its params."""
    shown = json.loads(project.run("dvc", "exp", "show", "--json").stdout)
    found = {}
    for baseline in shown:
        for experiment in baseline["experiments"] or []:
            revision = experiment["revs"][0]
            if revision["data"] is not None:
                found[experiment["name"]] = revision["data"]
    return found


def tracked_runs(project: Project, filter_string: str = "") -> list[Run]:
    """Runs in the project's own store."""
    client = MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    experiment = client.get_experiment_by_name("taehv")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], filter_string))
