"""Putting a finished training's outputs in their places where they do not fit: one line, and nothing is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.full_disk import needs_small_disks, run_on_small_disk
from support.project import REPOSITORY

from taehv.runtime.paths import TrainingOutputs
from taehv.training.finished_work import MARKER
from taehv.training.run_files import published_parts

pytestmark = pytest.mark.slow

PUBLISH = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from pathlib import Path
from stages.entry import run_stage
from stages.finished_training import publish_finished
from taehv.runtime.paths import TrainingOutputs
run_stage(lambda: publish_finished(TrainingOutputs(Path("work")), "a800_test") or 0)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingOutputs:
    """A finished training of 3 MB; the working directory, which has the project's dvc.yaml, is beside it."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    work = TrainingOutputs(tmp_path / "work")
    folders = (work.best_model, work.checkpoints, work.tensorboard, work.samples)
    for part in published_parts(work):
        file = part / "step-8" / "file" if part in folders else part
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(part.name.encode() * (1_000_000 // len(part.name) if part in folders[:3] else 1))
    (work.root / MARKER).write_text(json.dumps({"published": False}))
    return work


def content(folder: Path) -> dict[str, bytes]:
    """By name, but for the marker."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != MARKER)
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    "limit",
    [
        "size=1500k",
        *(pytest.param(limit, marks=pytest.mark.soak) for limit in ("size=100k", "nr_inodes=8", "nr_inodes=2")),
    ],
)
def test_a_full_disk_is_one_line_and_the_training_is_published_when_there_is_room(
    work: TrainingOutputs, tmp_path: Path, limit: str
) -> None:
    needs_small_disks()
    (tmp_path / "runs").mkdir()
    trained = content(work.root)
    result = run_on_small_disk(tmp_path / "runs", limit, PUBLISH, after="find runs -name '*.partial'; ls runs/*")
    assert result.returncode == 1
    assert result.stderr.startswith(
        "error: a800_test has finished, but its outputs cannot be published: runs/a800_test"
    )
    assert "the disk (or your quota) is full" in result.stderr and "kept in work" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "partial" not in result.stdout, "what does not fit leaves nothing half"
    assert "metrics.json" not in result.stdout
    assert content(work.root) == trained
    assert json.loads((work.root / MARKER).read_text())["published"] is False

    again = subprocess.run([sys.executable, "-c", PUBLISH], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert content(tmp_path / "runs/a800_test") == trained
    assert json.loads((work.root / MARKER).read_text())["published"] is True
