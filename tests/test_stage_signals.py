"""Stages that do not train end in order too when they are asked to, or when the machine is not the profile's."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time

import psutil
import pytest
from mlflow import MlflowClient
from tests_support import Project


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_request_to_stop_ends_prepare_data_its_workers_and_its_tracked_run(
    project: Project, number: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-m", "stages.prepare_data"]
    with subprocess.Popen(
        command, cwd=project.root, env=project.environment(), stderr=subprocess.PIPE, text=True
    ) as stage:
        workers = held_worker(psutil.Process(stage.pid))
        stage.send_signal(number)
        _, errors = stage.communicate()
    assert stage.returncode == code, errors
    assert f"stopped by {number.name}" in errors
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
    client = MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name == "taehv"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.tags["interrupted"]) == ("KILLED", number.name)


def held_worker(stage: psutil.Process) -> list[psutil.Process]:
    """A process that decodes videos, stopped before it could finish."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for child in stage.children():
            with contextlib.suppress(psutil.Error):  # others come and go
                if "spawn_main" in " ".join(child.cmdline()):
                    child.suspend()
                    return [child]
        time.sleep(0.01)
    raise AssertionError("no worker was started")


def test_evaluate_on_a_machine_without_the_profiles_gpus_is_one_message(project: Project) -> None:
    result = project.run("stages.evaluate", check=False, TAEHV_PROFILE="h100")
    assert result.returncode == 2
    assert "needs 8 GPU(s) named H100, this machine has no GPU" in result.stderr
    assert "Traceback" not in result.stderr
