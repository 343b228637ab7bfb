"""A finished training is not lost while DVC saves it, and is not in the way afterwards. Real DVC, really killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from support.failpoints import Hold
from support.project import Project, wait_for

from taehv.runtime.failpoints import Failpoint
from taehv.runtime.paths import TrainingOutputs
from taehv.training.finished_work import (
    MARKER,
    SECONDS_TO_SAVE_IN,
    delete_old_siblings,
    mark_finished,
    mark_published,
)

pytestmark = pytest.mark.slow

SAVED = ("best_model/model.safetensors", "validation_history.json", "summary.json", "mlflow.json", "metrics.json")


def outputs(project: Project) -> list[bytes]:
    return [(project.root / "runs/a800_test" / name).read_bytes() for name in SAVED]


def finished_folders(project: Project) -> list[str]:
    return [str(path) for path in project.root.glob(".work/a800_test/*/finished.json")]


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def kill_dvc_between_the_end_of_the_stage_and_its_saving(project: Project) -> None:
    """DVC is stopped while it trains, and never learns that the training has ended."""
    hold = Hold(project.root.with_name("go-on"))
    dvc = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "a800_test"],
        cwd=project.root,
        env=project.environment(hold.at(Failpoint.STEP)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    trainer = psutil.Process(hold.wait())
    dvc.send_signal(signal.SIGSTOP)
    hold.release()
    wait_for(lambda: has_ended(trainer), "the end of the stage")
    dvc.kill()
    dvc.wait()


def test_a_training_that_dvc_had_no_time_to_save_is_published_again_and_not_trained_again(
    tiny_project: Project,
) -> None:
    project = tiny_project
    project.change_profile(checkpoint_every=1)
    kill_dvc_between_the_end_of_the_stage_and_its_saving(project)
    trained = outputs(project)
    assert "runs/a800_test/metrics.json" not in (project.root / "dvc.lock").read_text(), "DVC was not killed in time"
    assert not list(project.root.glob(".work/a800_test/*/rolling")), "only what is published is kept"

    again = project.run("dvc", "repro", "a800_test")
    assert "PUBLISHED AGAIN, nothing is trained" in again.stdout
    assert outputs(project) == trained
    client = MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    experiment = client.get_experiment_by_name("taehv")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id], "tags.stage = 'a800_test'")) == 1

    forced = project.run("dvc", "repro", "--force", "--single-item", "a800_test")
    assert "started from initial weights" in forced.stdout, "DVC has saved it: who forces it wants it trained"
    assert outputs(project)[:2] == trained[:2]

    project.run("dvc", "repro", "gate_psnr")
    assert finished_folders(project) == [], "the next stage has no need of it"


@pytest.mark.soak
def test_a_finished_training_is_not_published_again_where_it_is_another_or_damaged(tiny_project: Project) -> None:
    """No DVC here: the stage is run by hand, and its outputs are deleted by hand."""
    project = tiny_project
    project.run("stages.a800_test")
    trained = outputs(project)
    assert len(finished_folders(project)) == 1

    shutil.rmtree(project.root / "runs/a800_test")
    assert "PUBLISHED AGAIN" in project.run("stages.a800_test").stdout
    assert outputs(project) == trained

    model = next(project.root.glob(".work/a800_test/*/best_model/model.safetensors"))
    shutil.rmtree(project.root / "runs/a800_test")
    model.write_bytes(model.read_bytes()[:-1])
    damaged = project.run("stages.a800_test").stdout
    assert "cannot be published again" in damaged and "model.safetensors changed" in damaged
    assert "resumed unfinished work at step 24" in damaged
    assert outputs(project)[:2] == trained[:2]

    code = project.root / "taehv/training/schedule.py"
    code.write_text(code.read_text() + "\n# changed\n")
    changed = project.run("stages.a800_test")
    assert "its files are deleted, and it is trained again" in changed.stdout
    assert "started from initial weights" in changed.stdout


def test_finished_trainings_do_not_pile_up(tmp_path: Path) -> None:
    """One of another fingerprint stays for a day: DVC may be saving it, in an experiment beside this one.

    One that was never published stays: it is nowhere else.
    """
    this, young, old, unpublished = (
        TrainingOutputs(tmp_path / name) for name in ("this", "young", "old", "unpublished")
    )
    for work in (this, young, old, unpublished):
        work.root.mkdir()
        mark_finished(work, origin="code")
        if work is not unpublished:
            mark_published(work)
    day_and_more_ago = time.time() - SECONDS_TO_SAVE_IN - 60
    for work in (this, old, unpublished):
        os.utime(work.root / MARKER, (day_and_more_ago, day_and_more_ago))
    delete_old_siblings(this)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["this", "unpublished", "young"]


@pytest.mark.soak
def test_a_damaged_finished_training_is_fixed_by_two_processes_too(tiny_project: Project) -> None:
    project = tiny_project
    profile = project.root / "profiles/local.yaml"
    content = (
        profile.read_text().replace("launcher: inline", "launcher: torchrun").replace("processes: 1", "processes: 2")
    )
    profile.write_text(content)
    project.run("stages.a800_test")
    trained = outputs(project)
    model = next(project.root.glob(".work/a800_test/*/best_model/model.safetensors"))
    model.write_bytes(model.read_bytes()[:-1])
    project.run("stages.a800_test")
    assert outputs(project)[:2] == trained[:2]
