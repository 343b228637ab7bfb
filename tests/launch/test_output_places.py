"""Outputs that could not be saved are refused before the work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.project import REPOSITORY, Project
from support.run_contexts import context, found

from taehv.doctor.repository import check_repository
from taehv.launch.dvc_yaml import check_output_places
from taehv.runtime.errors import UserError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    (root / ".dvc").mkdir()
    shutil.copy(REPOSITORY / "dvc.yaml", root)
    monkeypatch.chdir(root)
    return root


@pytest.mark.parametrize(
    "path", ["data/clips", "runs", "runs/a800_test", "runs/h100_train/checkpoints", "reports", "data"]
)
def test_a_link_to_another_disk_is_refused_and_the_ways_that_work_are_named(
    here: Path, path: str, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    link = here / path
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.exists():
        link.rename(here / "aside")
    link.symlink_to(tmp_path / "disk")
    with pytest.raises(UserError) as caught:
        check_output_places()
    assert str(caught.value).startswith(f"{path} is a link, and DVC saves no outputs behind one: rm {path}")
    assert f"mount --bind /other/disk/{link.name} {path}" in str(caught.value)
    assert str(caught.value).count("is a link") == 1, "one problem is said once"
    check_result = found(check_repository(context()), "outputs")
    assert (check_result.level, check_result.detail) == (
        "fail",
        f"{path} is a link, and DVC saves no outputs behind one",
    )


def test_a_disk_that_is_not_mounted_and_a_file_in_the_way_are_told(here: Path, tmp_path: Path) -> None:
    (here / "runs").symlink_to(tmp_path / "not mounted")
    (here / "reports").write_text("not a folder")
    with pytest.raises(UserError, match=r"runs is a link to .*, which is not there: .*; reports is a file, where"):
        check_output_places()


def test_what_dvc_itself_links_is_no_problem(here: Path, tmp_path: Path) -> None:
    """`dvc config cache.type symlink`: files are links into the cache, folders are folders."""
    (tmp_path / "cached").write_text("{}")
    (here / "data/clips").mkdir(parents=True)
    for link in (here / "data/dataset.json", here / "data/clips/train-000000.tar"):
        link.symlink_to(tmp_path / "cached")
    (here.parent / "link").symlink_to(here)
    check_output_places()


@pytest.mark.slow
def test_no_stage_begins_its_work_behind_a_link(project: Project, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (project.root / "runs").symlink_to(tmp_path / "disk")
    for command in (["taehv.launch"], ["stages.prepare_data"], ["dvc", "repro", "prepare_data"]):
        result = project.run(*command, check=False)
        assert result.returncode != 0
        assert "error: runs is a link" in result.stderr and "Traceback" not in result.stderr
    assert not (project.root / ".work").exists() and not (project.root / "data/clips").exists()
