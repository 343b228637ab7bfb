"""Projects to test on: real copies of this repository, run by real processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
SUPPORT = Path(__file__).parent
"""Where the programs are that tests start as processes of their own."""

TINY: dict[str, Any] = {
    "gate": {"step": 24, "min_psnr_db": 4.0, "max_collapse_db": 50.0},
    "a800_test": {"abort_below_db": 0.0},
    "scales": {
        "embedded": {
            "data": {"height": 32, "width": 32, "canvas_height": 64, "canvas_width": 64, "clips_per_video": 4},
            "model": {"width": 0.0625},
            "seraena": {"start_step": 2, "ramp_steps": 4, "width": 2, "replay_mib": 1},
            "optim": {"warmup_steps": 4, "decay_steps": 24},
            "validation": {"every": 8, "samples": 6},
            "checkpoint": {"every": 8},
            "steps": {"a800_test": 24, "h100_train": 32},
            "final_psnr_db": 4.0,
        }
    },
}
"""Changes to params.yaml after which the pipeline takes seconds: same videos, same code, small numbers."""


@dataclass(frozen=True)
class Project:
    """A copy of this repository with a git history of its own."""

    root: Path

    def run(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment that runs the tests, in the project; its output is in the result."""
        result = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.root,
            env=self.environment(environment),
            capture_output=True,
            text=True,
        )
        if check and result.returncode != 0:
            pytest.fail(f"{' '.join(command)} ended with {result.returncode}\n{result.stdout}\n{result.stderr}")
        return result

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The test's environment without settings that would lead outside the project."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MLFLOW_", "DVC_", "TAEHV_", "PYTEST_", "GIT_"))
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DVC_NO_ANALYTICS": "1"}
        # No test depends on how fast the tracking store is.
        return {**kept, "PATH": path, **quiet, "TAEHV_TRACKING_DRAIN_SECONDS": "600", **(extra or {})}

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True).stdout

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "--allow-empty", "-qm", message)

    def json(self, path: str) -> Any:
        return json.loads((self.root / path).read_text(encoding="utf-8"))

    def copy(self, target: Path) -> Project:
        """This project as if it had been made in another folder, free to be changed."""
        self.copy_as_it_is(target)
        if (target / "mlflow.db").exists():
            give_new_home(target / "mlflow.db", self.root, target)
        return Project(target)

    def copy_as_it_is(self, target: Path) -> Project:
        """The files alone: its tracking store still says that artifacts are in the original."""
        shutil.copytree(self.root, target, symlinks=True)
        return Project(target)

    def change_params(self, changes: Mapping[str, Any]) -> None:
        """Merge ``changes`` into params.yaml."""
        path = self.root / "params.yaml"
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
        merge(params, changes)
        path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")

    def change_profile(self, **changes: Any) -> None:
        """Set values of profiles/local.yaml."""
        path = self.root / "profiles/local.yaml"
        profile = yaml.safe_load(path.read_text(encoding="utf-8"))
        path.write_text(yaml.safe_dump(profile | changes, sort_keys=False), encoding="utf-8")


def give_new_home(database: Path, old: Path, new: Path) -> None:
    """Change the absolute places that MLflow writes into its database."""
    places = ("experiments.artifact_location", "runs.artifact_uri", "logged_models.artifact_location")
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        for place in (*places, "model_versions.storage_location"):
            table, column = place.split(".")
            connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(old), str(new)))


def merge(target: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = value


def wait_for(condition: Callable[[], object], what: str, seconds: float = 300.0) -> None:
    """Look again and again; fails where the condition never comes true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def copy_repository(target: Path) -> Project:
    """What a fresh clone would hold, uncommitted changes included, where no pipeline has run: without its dvc.lock."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        source = REPOSITORY / name
        if source.is_file() and name != "dvc.lock":
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    project = Project(target)
    project.git("init", "-q")
    project.commit("copy")
    return project
