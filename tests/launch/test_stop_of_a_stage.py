"""A stage that has nothing to save ends at once when it is asked to, and its tracked run with it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from support.failpoints import Hold
from support.project import Project

from taehv.runtime.failpoints import Failpoint

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), pytest.param("SIGINT", 130, marks=pytest.mark.soak)])
def test_prepare_data_ends_with_its_workers_and_its_run_is_killed(
    project: Project, tmp_path: Path, name: str, code: int
) -> None:
    hold = Hold(tmp_path / "go-on")
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.prepare_data"],
        cwd=project.root,
        env=project.environment(hold.at(Failpoint.VIDEO)),
        stderr=subprocess.PIPE,
        text=True,
    )
    worker = hold.wait()
    below = psutil.Process(process.pid).children(recursive=True)
    assert worker in {each.pid for each in below}
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate()
    assert process.returncode == code, errors
    assert f"stopped by {name}: run the same command again" in errors
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(below, timeout=60)
    assert alive == []
    client = MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    experiment = client.get_experiment_by_name("taehv")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.tags["interrupted"]) == ("KILLED", name)
    assert not (project.root / "data/prepare_data.partial").exists()
