"""Long tests of the pipeline: make soak."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from support.project import Project

pytestmark = pytest.mark.soak

KILLS = 10
STAGE = [sys.executable, "-m", "stages.a800_test"]


def kill_at_a_random_moment(project: Project, moments: random.Random) -> None:
    """Start the stage and kill all its processes some time after its work folder is there; it may also have ended."""
    process = subprocess.Popen(
        STAGE, cwd=project.root, env=project.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list(project.root.glob(".work/a800_test/*/train.log")) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(moments.uniform(0.0, 15.0))
    with contextlib.suppress(psutil.NoSuchProcess):
        stage = psutil.Process(process.pid)
        everyone = [stage, *stage.children(recursive=True)]
        for each in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(everyone)
    process.wait()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_killed_at_random_moments_ends_with_the_bits_of_an_uninterrupted_one(
    prepared_tiny_project: Project, tmp_path: Path, processes: int
) -> None:
    uninterrupted = prepared_tiny_project.copy(tmp_path / "uninterrupted")
    project = prepared_tiny_project.copy(tmp_path / "killed")
    for each, every in ((uninterrupted, 100), (project, 1)):
        profile = each.root / "profiles/local.yaml"
        launcher = "torchrun" if processes > 1 else "inline"
        changes = {"processes": processes, "launcher": launcher, "checkpoint_every": every}
        profile.write_text(yaml.safe_dump({**yaml.safe_load(profile.read_text()), **changes}))
    uninterrupted.run("stages.a800_test")
    moments = random.Random(0)
    for _ in range(KILLS):
        kill_at_a_random_moment(project, moments)
    project.run("stages.a800_test")
    for file in ("best_model/model.safetensors", "validation_history.json"):
        ours, reference = (p.root / "runs/a800_test" / file for p in (project, uninterrupted))
        assert ours.read_bytes() == reference.read_bytes()
