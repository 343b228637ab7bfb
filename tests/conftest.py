"""Fixtures that all tests and all of pytest's processes share: real copies of this repository, and the one real run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.built_once import built_once
from support.project import TINY, Project, copy_repository

TESTS = Path(__file__).parent

# No test depends on speed: an example may take as long as it takes beside other tests.
settings.register_profile("of any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("of any speed")

# A shell's background job ignores the interrupt key, and nohup's the end of the terminal. So would every process that a
# test starts and signals; of a handler they inherit nothing, and these tests go on ignoring both.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


LONGEST_FIRST = (
    "pipeline/test_embedded_pipeline.py",
    "training/test_interruption.py",
    "pipeline/test_mlflow_run.py",
    "pipeline/test_tiny_pipeline.py",
    "pipeline/test_dvc_experiments.py",
    "training/test_distributed.py",
    "tracking/test_delivery.py",
    "training/test_finished_work.py",
    "data/test_full_disk.py",
)
"""Then come the other files with slow tests, then the rest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where files run side by side, the long ones come first: then all processes end at about the same time."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    place = {TESTS / name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(place) + (item.path not in slow)))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh copy of the repository, nothing run yet."""
    return copy_repository(tmp_path / "project")


def one_thread(project: Project) -> None:
    profile = project.root / "profiles/local.yaml"
    profile.write_text(profile.read_text().replace("threads: null", "threads: 1"))


@pytest.fixture(scope="session")
def prepared_tiny_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A tiny project after prepare_data. Copy it before changing it: ``tiny_project`` does."""

    def build(folder: Path) -> None:
        project = copy_repository(folder / "project")
        project.change_params(TINY)
        one_thread(project)
        project.commit("tiny")
        project.run("dvc", "repro", "prepare_data")
        project.commit("prepared")

    return Project(built_once(tmp_path_factory, "prepared", build) / "project")


@pytest.fixture
def tiny_project(prepared_tiny_project: Project, tmp_path: Path) -> Project:
    """A copy of the prepared tiny project, free to be changed."""
    return prepared_tiny_project.copy(tmp_path / "project")


@pytest.fixture(scope="session")
def finished(prepared_tiny_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny pipeline after `dvc repro`. Only read from it, or copy it."""

    def build(folder: Path) -> None:
        project = prepared_tiny_project.copy(folder / "project")
        project.run("dvc", "repro")
        project.commit("finished")

    built = Project(built_once(tmp_path_factory, "finished", build) / "project")
    # DVC locks a repository also to read it: each process has its own.
    return built.copy(tmp_path_factory.mktemp("finished") / "project")


@pytest.fixture(scope="session")
def pipeline_run(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The one real run of the whole embedded pipeline that all end-to-end tests share. Only read from it.

    Beside other tests it has one thread: two that wait for a core which is busy take twice as long as one
    (benchmarks/RESULTS.md, "Beside a busy process").
    """

    def build(folder: Path) -> None:
        project = copy_repository(folder / "project")
        if "PYTEST_XDIST_WORKER" in os.environ:
            one_thread(project)
            project.commit("one thread")
        result = project.run("taehv.launch", check=False)
        (project.root / "pipeline.log").write_text(result.stdout + result.stderr, encoding="utf-8")
        if result.returncode != 0:
            pytest.fail(f"the pipeline failed:\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}")

    return Project(built_once(tmp_path_factory, "pipeline", build) / "project")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database without experiments but its own, to be copied: making its tables takes seconds."""

    def build(folder: Path) -> None:
        program = f"import mlflow; mlflow.MlflowClient('sqlite:///{folder}/mlflow.db').search_experiments()"
        subprocess.run([sys.executable, "-c", program], cwd=folder, check=True, capture_output=True)

    return built_once(tmp_path_factory, "empty-store", build) / "mlflow.db"
