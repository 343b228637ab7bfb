"""Fixtures that all tests share: real copies of this repository, and the one real pipeline run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests_support import TINY, Project, copy_repository

# A shell's background job ignores the interrupt key, and nohup's the end of the terminal. So would every process that a
# test starts and signals; of a handler they inherit nothing, and these tests go on ignoring both.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where files run side by side, the long ones come first: then all processes end at about the same time."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        long = {item.path for item in items if any(map(item.get_closest_marker, ("pipeline", "slow")))}
        items.sort(key=lambda item: item.path not in long)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh copy of the repository, nothing run yet."""
    return copy_repository(tmp_path / "project")


@pytest.fixture(scope="session")
def prepared_tiny_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A tiny project after prepare_data. Copy it before changing it: ``tiny_project`` does."""
    project = copy_repository(tmp_path_factory.mktemp("tiny") / "project")
    project.change_params(TINY)
    profile = project.root / "profiles/local.yaml"
    profile.write_text(profile.read_text().replace("threads: null", "threads: 1"))
    project.commit("tiny")
    project.run("dvc", "repro", "prepare_data")
    project.commit("prepared")
    return project


@pytest.fixture
def tiny_project(prepared_tiny_project: Project, tmp_path: Path) -> Project:
    """A copy of the prepared tiny project, free to be changed."""
    return prepared_tiny_project.copy(tmp_path / "project")


@pytest.fixture(scope="session")
def finished(prepared_tiny_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny pipeline after `dvc repro`. Only read from it, or copy it."""
    project = prepared_tiny_project.copy(tmp_path_factory.mktemp("finished") / "project")
    project.run("dvc", "repro")
    project.commit("finished")
    return project


@pytest.fixture(scope="session")
def pipeline_run(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The one real run of the whole embedded pipeline that all end-to-end tests share. Only read from it."""
    project = copy_repository(tmp_path_factory.mktemp("pipeline") / "project")
    result = project.run("taehv.launch", check=False)
    (project.root / "pipeline.log").write_text(result.stdout + result.stderr, encoding="utf-8")
    if result.returncode != 0:
        pytest.fail(f"the pipeline failed:\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}")
    return project
