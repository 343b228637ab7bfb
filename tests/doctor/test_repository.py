"""A run that could not be made again from its commit is told so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.project import Project
from support.run_contexts import context, found, levels

from taehv.doctor.check import Check
from taehv.doctor.repository import check_repository


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(project.root)
    for name in ("DVC_ROOT", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    return project


def look() -> list[Check]:
    return check_repository(context())


def test_a_clean_clone_passes(here: Project) -> None:
    assert set(levels(look()).values()) == {"pass"}


def test_uncommitted_files_are_named(here: Project) -> None:
    here.change_params({"seed": 7})
    (here.root / "taehv" / "extra.py").write_text("")
    check_result = found(look(), "git")
    assert check_result.level == "warn"
    assert "2 uncommitted files: params.yaml, taehv/extra.py" in check_result.detail


def test_dvcs_lock_file_changes_after_every_stage_and_is_no_news(here: Project) -> None:
    (here.root / "dvc.lock").write_text("schema: '2.0'\n")
    here.commit("locked")
    (here.root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    assert found(look(), "git").level == "pass"


def test_an_experiment_keeps_its_own_changes(here: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    here.change_params({"seed": 7})
    monkeypatch.setenv("DVC_EXP_NAME", "sad-tins")
    check_result = found(look(), "git")
    assert check_result.level == "pass"
    assert "sad-tins" in check_result.detail


def test_without_git_or_dvc_it_says_so(here: Project) -> None:
    shutil.rmtree(".git")
    shutil.rmtree(".dvc")
    check_results = look()
    assert found(check_results, "git").level == "warn"
    assert found(check_results, "DVC").level == "fail"


def test_a_parameter_that_dvc_does_not_watch_is_named(here: Project) -> None:
    path = Path("dvc.yaml")
    path.write_text(path.read_text().replace("      - scales.${scale}.optim\n", "", 1))
    check_result = found(look(), "dvc.yaml")
    assert check_result.level == "warn"
    assert "a800_test: @.optim" in check_result.detail


def test_an_unreadable_dvc_yaml_fails(here: Project) -> None:
    Path("dvc.yaml").write_text("stages: [")
    assert found(look(), "dvc.yaml").level == "fail"
