"""make works where a path has a space.

Nothing is installed here: the programs of the environment only write down how they are called.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.project import REPOSITORY

PROGRAM = '#!/bin/sh\nprintf "%s|" "$(basename "$0")" "$@" >> "$CALLS"\necho >> "$CALLS"\n'


@pytest.fixture(params=["in the folder", "elsewhere"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, str], str]:
    """A folder with a space, its make variables, and where the environment is."""
    root = tmp_path / "my project"
    root.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, root)
    venv = ".venv" if request.param == "in the folder" else str(tmp_path / "an environment")
    programs = root / venv / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "dvc", "ruff", "mypy", "tensorboard"):
        (programs / name).write_text(PROGRAM)
        (programs / name).chmod(0o755)
    return root, {**os.environ, "VENV": venv, "CALLS": str(tmp_path / "calls")}, venv


def test_every_target_works_in_a_folder_with_a_space(made: tuple[Path, dict[str, str], str], tmp_path: Path) -> None:
    root, environment, venv = made
    for target in ("setup", "lint", "ui", "ui PORT=5001", "tensorboard", "repro", "bench-codec", "bench-checkpoints"):
        command = ["make", *target.split()]
        result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert (root / venv / ".installed").exists()
    assert [call for call in calls if "pip|install" in call and "requirements.lock" in call] != []
    assert len([call for call in calls if "pip|" in call]) == 2, "what is installed is not installed again"
    assert "python|-m|taehv.tracking.ui|" in calls and "python|-m|taehv.tracking.ui|--port|5001|" in calls
    assert "python|-m|taehv.launch|" in calls
    assert calls[-3:] == [
        "python|benchmarks/codec.py|", "dvc|repro|--quiet|prepare_data|", "python|benchmarks/checkpoints.py|"
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        {"my project", "calls"} | ({"an environment"} if venv != ".venv" else set())
    )
