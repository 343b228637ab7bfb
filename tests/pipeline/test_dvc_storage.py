"""DVC's remote, cache and garbage collection with real outputs."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests_support import Project

pytestmark = pytest.mark.slow


def damaged_cache_files(project: Project) -> list[Path]:
    """Files of the cache whose content is not what their name says."""
    files = [file for file in (project.root / ".dvc/cache/files/md5").rglob("*") if file.is_file()]
    assert files
    named = {file: (file.parent.name + file.name).removesuffix(".dir") for file in files}
    return [file for file, name in named.items() if hashlib.md5(file.read_bytes()).hexdigest() != name]


def test_what_is_pushed_can_be_pulled_in_another_clone_and_nothing_runs_again(
    finished: Project, tmp_path: Path
) -> None:
    here = finished.copy(tmp_path / "here")
    here.run("dvc", "remote", "add", "-d", "storage", str(tmp_path / "storage"))
    here.commit("remote")
    here.run("dvc", "push")
    here.git("clone", "-q", str(here.root), str(tmp_path / "there"))
    there = Project(tmp_path / "there")
    there.run("dvc", "pull")
    assert there.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    assert "Running stage" not in there.run("dvc", "repro").stdout
    for file in ("runs/a800_test/metrics.json", "runs/gate_psnr.json", "reports/evaluation.json"):
        assert there.json(file) == here.json(file)


@pytest.mark.parametrize("link", ["hardlink", "symlink"])
def test_outputs_that_are_links_into_the_cache_are_never_changed_in_place(
    finished: Project, tmp_path: Path, link: str
) -> None:
    project = finished.copy(tmp_path / "project")
    project.run("dvc", "config", "cache.type", link)
    project.run("dvc", "checkout", "--relink")
    log = project.root / "runs/a800_test/train.log"
    assert log.is_symlink() if link == "symlink" else log.stat().st_nlink == 2
    # The stages by themselves: nobody has cleared their places.
    for stage in ("prepare_data", "a800_test", "gate_psnr", "evaluate"):
        project.run(f"stages.{stage}")
    assert damaged_cache_files(project) == []
    project.change_params({"loss": {"recon": 20.0}})
    project.run("dvc", "repro")
    assert damaged_cache_files(project) == []
    assert project.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."


def start_training(project: Project) -> subprocess.Popen[bytes]:
    """Start a800_test; returns when it holds its work folder."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.a800_test"],
        cwd=project.root,
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not any(
        f"process {process.pid} " in lock.read_text() for lock in project.root.glob(".work/a800_test/*/lock")
    ):
        assert process.poll() is None, "the stage ended before it trained"
        time.sleep(0.02)
    return process


def test_collecting_garbage_takes_nothing_from_a_killed_or_a_running_training(tiny_project: Project) -> None:
    project = tiny_project
    project.run("dvc", "config", "cache.type", "symlink")
    project.run("dvc", "checkout", "--relink")
    profile = project.root / "profiles/local.yaml"
    profile.write_text(profile.read_text().replace("checkpoint_every: 100", "checkpoint_every: 1"))
    killed = start_training(project)
    while not list(project.root.glob(".work/a800_test/*/rolling/step-*")):
        assert killed.poll() is None, "the stage ended before its first checkpoint"
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    project.run("dvc", "gc", "--workspace", "--force")
    resumed = start_training(project)
    # Stopped, so that it is still training when the garbage has been collected, however long that takes.
    resumed.send_signal(signal.SIGSTOP)
    project.run("dvc", "gc", "--workspace", "--force")
    resumed.send_signal(signal.SIGCONT)
    assert resumed.wait() == 0
    assert "resumed unfinished work" in (project.root / "runs/a800_test/train.log").read_text()
