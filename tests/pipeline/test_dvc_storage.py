"""DVC's remote, cache and garbage collection with real outputs."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from support.failpoints import Hold
from support.project import Project

from taehv.runtime.failpoints import Failpoint

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
    for file in (
        "runs/a800_test/metrics.json",
        "runs/a800_test/summary.json",
        "runs/gate_psnr.json",
        "reports/evaluation.json",
    ):
        assert there.json(file) == here.json(file)


@pytest.mark.parametrize("link", ["symlink", pytest.param("hardlink", marks=pytest.mark.soak)])
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
    project.change_params({"gate": {"min_psnr_db": 5.0}})
    project.run("dvc", "repro", "gate_psnr")
    assert damaged_cache_files(project) == []


def test_collecting_garbage_takes_nothing_from_a_running_or_a_killed_training(
    tiny_project: Project, tmp_path: Path
) -> None:
    project, hold = tiny_project, Hold(tmp_path / "go-on")
    project.run("dvc", "config", "cache.type", "symlink")
    project.run("dvc", "checkout", "--relink", "prepare_data")
    assert all(shard.is_symlink() for shard in (project.root / "data/clips").glob("*.tar"))
    project.change_profile(checkpoint_every=1)
    training = subprocess.Popen(
        [sys.executable, "-m", "stages.a800_test"],
        cwd=project.root,
        env=project.environment(hold.at(Failpoint.CHECKPOINT_IN_PLACE)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with training:
        assert hold.wait() == training.pid
        project.run("dvc", "gc", "--workspace", "--force")
        training.kill()
    project.run("dvc", "gc", "--workspace", "--force")
    assert "resumed unfinished work" in project.run("stages.a800_test").stdout
