"""Long tests of the pipeline: make soak."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests_support import Project

pytestmark = pytest.mark.soak

KILLS = 10
STAGE = [sys.executable, "-m", "stages.a800_test"]


def kill_at_a_random_moment(project: Project, moments: random.Random) -> None:
    """Start the stage and kill it some time after its work folder is there; it may also have ended by then."""
    process = subprocess.Popen(
        STAGE, cwd=project.root, env=project.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list(project.root.glob(".work/a800_test/*/train.log")) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(moments.uniform(0.0, 15.0))
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_training_killed_at_random_moments_ends_with_the_bits_of_an_uninterrupted_one(
    prepared_tiny_project: Project, tmp_path: Path
) -> None:
    uninterrupted = prepared_tiny_project.copy(tmp_path / "uninterrupted")
    uninterrupted.run("stages.a800_test")
    project = prepared_tiny_project.copy(tmp_path / "killed")
    profile = project.root / "profiles/local.yaml"
    profile.write_text(profile.read_text().replace("checkpoint_every: 100", "checkpoint_every: 1"))
    moments = random.Random(0)
    for _ in range(KILLS):
        kill_at_a_random_moment(project, moments)
    project.run("stages.a800_test")
    for file in ("best_model/model.safetensors", "validation_history.json"):
        ours, reference = (p.root / "runs/a800_test" / file for p in (project, uninterrupted))
        assert ours.read_bytes() == reference.read_bytes()
