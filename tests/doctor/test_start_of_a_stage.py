"""A training stage looks before it starts, and says little where all is well."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.project import Project

from taehv.runtime.launched import mark

pytestmark = pytest.mark.slow

BEGIN = """
from taehv.data.dataset import Dataset
from taehv.doctor.checks import check_before_training
from taehv.runtime import paths
from taehv.runtime.errors import exit_with
from taehv.config.params import load_params
from taehv.config.profiles import load_profile
from taehv.training.run_spec import RunSpec

def main():
    check_before_training(RunSpec("a800_test", load_params(), load_profile(), Dataset.open(), paths.TEACHER))
    print("training begins")
    return 0

exit_with(main)
"""

WITHOUT_WARNINGS = {"scales": {"embedded": {"seraena": {"start_step": 25}}}}


BROKEN_CHECK = """
from taehv.doctor import checks

def check_repository(context):
    raise RecursionError("too deep")

checks.CHECKS = (check_repository,)
"""


def begin(project: Project, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", before + BEGIN],
        cwd=project.root,
        env=project.environment(environment),
        capture_output=True,
        text=True,
    )


def with_another_hash(project: Project) -> Project:
    path = project.root / "data/dataset.json"
    facts = project.json("data/dataset.json")
    path.unlink()
    path.write_text(json.dumps({**facts, "dataset_sha256": "0" * 64}))
    return project


def train_log(project: Project) -> str:
    (log,) = project.root.glob(".work/a800_test/*/train.log")
    return log.read_text(encoding="utf-8")


def test_where_all_is_well_it_is_one_line(tiny_project: Project) -> None:
    tiny_project.change_params(WITHOUT_WARNINGS)
    tiny_project.commit("without warnings")
    result = begin(tiny_project)
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first.startswith("doctor: ") and first.endswith(" checks passed")
    assert second == "training begins"
    assert result.stderr == ""


def test_a_failure_stops_the_real_stage_before_training(tiny_project: Project) -> None:
    shard = next(Path(tiny_project.root / "data/clips").glob("val-*.tar"))
    shard.unlink()
    result = tiny_project.run("stages.a800_test", check=False)
    assert result.returncode == 1
    assert "error: a800_test does not start" in result.stderr
    assert shard.name in result.stderr and "-> run: rm -rf data/clips" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tiny_project.root.glob(".work/a800_test/*"))


def test_warnings_do_not_stop_it_and_are_in_train_log(tiny_project: Project) -> None:
    result = begin(tiny_project)
    assert result.returncode == 0
    assert "seraena start" in result.stdout and "seraena start" in train_log(tiny_project)


def test_a_dead_tracking_server_does_not_stop_it(tiny_project: Project) -> None:
    result = begin(tiny_project, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert result.returncode == 0, result.stderr
    assert "http://127.0.0.1:9 does not work" in result.stdout
    assert "training begins" in result.stdout


def test_a_check_that_breaks_is_a_named_finding(tiny_project: Project) -> None:
    result = begin(tiny_project, before=BROKEN_CHECK)
    assert result.returncode == 1
    assert "fail  repository" in result.stderr and "the check itself broke: RecursionError: too deep" in result.stderr
    assert "Traceback" not in result.stderr


def test_it_can_be_skipped_and_says_so(tiny_project: Project) -> None:
    project = with_another_hash(tiny_project)
    assert begin(project).returncode == 1
    skipped = begin(project, TAEHV_SKIP_DOCTOR="1")
    assert skipped.returncode == 0
    assert "WARNING: TAEHV_SKIP_DOCTOR=1: a800_test starts without being checked" in skipped.stdout
    assert "TAEHV_SKIP_DOCTOR" in train_log(project)


def test_the_processes_that_a_launcher_started_do_not_look_again(tiny_project: Project) -> None:
    result = begin(with_another_hash(tiny_project), **mark(processes=1))
    assert result.stdout == "training begins\n"


def test_a_cluster_that_left_its_rank_is_no_launcher_of_ours(tiny_project: Project) -> None:
    result = begin(with_another_hash(tiny_project), RANK="0", WORLD_SIZE="1")
    assert result.returncode == 1
    assert "a800_test does not start" in result.stderr
