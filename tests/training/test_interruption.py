"""Whatever ends a training process, the next one goes on as if nothing had been. Real stages, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow import MlflowClient
from tests_support import Project

pytestmark = pytest.mark.slow

STAGE_PROCESS = str(Path(__file__).parent / "stage_process.py")
SAME_BITS = ("best_model/model.safetensors", "validation_history.json")

MOMENTS = [
    ("a step", 1),
    ("a validation", 2),
    ("writing a checkpoint's files", 1),
    ("writing a checkpoint's manifest", 1),
    ("putting a checkpoint in place", 1),
    ("deleting an old checkpoint", 1),
    ("a step", 6),
    ("replacing the best model", 2),
    ("writing the history", 2),
    ("publishing", 3),
]
"""In this order, every one is reached before training ends."""
MOMENTS_OF_TWO = [
    ("a step", 2),
    ("writing a checkpoint's files", 1),
    ("a validation", 3),
    ("replacing the best model", 2),
]
"""The same, with a second process, which is then ended by the launcher; in `make soak` the moments are random."""


def with_profile(project: Project, processes: int = 1) -> Project:
    """A checkpoint after every step, and so many processes."""
    path = project.root / "profiles/local.yaml"
    launcher = "torchrun" if processes > 1 else "inline"
    changes = {"checkpoint_every": 1, "processes": processes, "launcher": launcher, "log_every": 1}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))
    return project


def start(project: Project, *command: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=project.root,
        env=project.environment({"PYTHONPATH": str(project.root), **environment}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def checkpoints(project: Project) -> list[int]:
    return sorted(int(path.name[5:]) for path in project.root.glob(".work/a800_test/*/rolling/step-*"))


def bits(project: Project) -> list[bytes]:
    return [(project.root / "runs/a800_test" / name).read_bytes() for name in SAME_BITS]


def in_processes(project: Project, processes: int, *arguments: str) -> subprocess.Popen[str]:
    """The stage, with something to happen to its first training process."""
    if processes == 1:
        return start(project, STAGE_PROCESS, *arguments)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return start(project, *launcher, STAGE_PROCESS, *arguments)


@pytest.fixture(scope="module")
def uninterrupted(prepared_tiny_project: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[bytes]]:
    """What one process, and two, leave when nothing happens to them."""
    left = {}
    for processes in (1, 2):
        project = prepared_tiny_project.copy(tmp_path_factory.mktemp("uninterrupted") / "project")
        with_profile(project, processes).run("stages.a800_test")
        left[processes] = bits(project)
    return left


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_every_delicate_moment_it_ends_with_the_same_bits(
    tiny_project: Project, uninterrupted: dict[int, list[bytes]], processes: int
) -> None:
    project = with_profile(tiny_project, processes)
    for moment, count in MOMENTS if processes == 1 else MOMENTS_OF_TWO:
        process = in_processes(project, processes, "a800_test", "SIGKILL", moment, str(count))
        output, _ = process.communicate()
        assert process.returncode == (-signal.SIGKILL if processes == 1 else 1), f"{moment} was not reached:\n{output}"
    project.run("stages.a800_test")
    assert bits(project) == uninterrupted[processes]


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGUSR1", 143), ("SIGINT", 130), ("SIGHUP", 143)])
def test_a_request_to_stop_finishes_the_step_saves_and_says_how_to_go_on(
    tiny_project: Project, uninterrupted: dict[int, list[bytes]], number: str, code: int
) -> None:
    process = start(tiny_project, STAGE_PROCESS, "a800_test", number, "a step", "5")
    output, _ = process.communicate()
    assert process.returncode == code, output
    assert f"stopped by {number}: a800_test is at step 5" in output
    assert checkpoints(tiny_project) == [5]
    client = MlflowClient(f"sqlite:///{tiny_project.root}/mlflow.db")
    experiment = client.get_experiment_by_name("taehv")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.stage = 'a800_test'")
    assert (run.info.status, run.data.tags["interrupted"]) == ("KILLED", number)
    tiny_project.run("stages.a800_test")
    assert bits(tiny_project) == uninterrupted[1]
    assert client.get_run(run.info.run_id).info.status == "FINISHED", "the same MLflow run went on"


def test_a_second_signal_ends_it_at_once(tiny_project: Project) -> None:
    process = start(tiny_project, STAGE_PROCESS, "a800_test", "hang", "a step", "3")
    assert process.stdout is not None
    wait_for(lambda: "hanging" in process.stdout.readline(), "the step that hangs")  # type: ignore[union-attr]
    process.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143


def test_a_closed_terminal_does_not_end_what_was_started_with_nohup(tiny_project: Project) -> None:
    command = ["nohup", sys.executable, STAGE_PROCESS, "a800_test", "SIGHUP", "a step", "5"]
    environment = tiny_project.environment({"PYTHONPATH": str(tiny_project.root)})
    subprocess.run(command, cwd=tiny_project.root, env=environment, check=True, capture_output=True)
    assert tiny_project.json("runs/a800_test/metrics.json")["steps"] == 24


def test_a_second_signal_ends_the_workers_too_also_one_that_hangs(tiny_project: Project) -> None:
    project = with_profile(tiny_project, processes=2)
    process = start(project, "-m", "stages.a800_test")
    wait_for(lambda: checkpoints(project), "a checkpoint")
    below = psutil.Process(process.pid).children(recursive=True)
    hanging = below[-1]
    hanging.suspend()
    process.send_signal(signal.SIGTERM)
    while process.poll() is None:
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
    process.communicate()
    _, alive = psutil.wait_procs(below, timeout=60)
    assert alive == []


def test_with_several_processes_a_request_to_the_stage_stops_all_of_them(
    tiny_project: Project, uninterrupted: dict[int, list[bytes]]
) -> None:
    project = with_profile(tiny_project, processes=2)
    process = start(project, "-m", "stages.a800_test")
    wait_for(lambda: checkpoints(project), "a checkpoint")
    trainers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 143, output
    assert "stopped by SIGTERM" in output
    _, alive = psutil.wait_procs(trainers, timeout=60)
    assert alive == []
    project.run("stages.a800_test")
    assert bits(project) == uninterrupted[2]


@pytest.mark.parametrize("starter", [("dvc", "repro"), ("taehv.launch",)], ids=["dvc", "the launcher"])
def test_the_death_of_dvc_or_the_launcher_stops_the_training_with_a_checkpoint(
    tiny_project: Project, uninterrupted: dict[int, list[bytes]], starter: tuple[str, ...]
) -> None:
    project = with_profile(tiny_project)
    starting = start(project, "-m", *starter, "a800_test")
    wait_for(lambda: checkpoints(project), "a checkpoint")
    trainers = psutil.Process(starting.pid).children(recursive=True)
    starting.kill()
    _, alive = psutil.wait_procs(trainers, timeout=120)
    assert alive == [], "the trainer did not notice"
    assert not (project.root / "runs/a800_test/metrics.json").exists(), "it ended before that"
    log = next(project.root.glob(".work/a800_test/*/train.log")).read_text()
    assert "step     24" not in log
    project.run("stages.a800_test")
    assert bits(project) == uninterrupted[1]


def test_a_second_trainer_is_refused_and_the_lock_of_a_killed_one_is_taken_over(tiny_project: Project) -> None:
    first = start(tiny_project, STAGE_PROCESS, "a800_test", "hang", "a step", "2")
    assert first.stdout is not None
    wait_for(lambda: "hanging" in first.stdout.readline(), "the step that hangs")  # type: ignore[union-attr]
    refused = tiny_project.run("stages.a800_test", check=False)
    assert refused.returncode == 1
    assert f"process {first.pid} on {os.uname().nodename} is already training in" in refused.stderr
    first.kill()
    first.wait()
    taken_over = tiny_project.run("stages.a800_test")
    assert f"process {first.pid} on {os.uname().nodename} was training here and is gone" in taken_over.stdout


def test_resume_goes_back_to_a_named_checkpoint_and_refuses_one_that_is_not_there(
    tiny_project: Project, uninterrupted: dict[int, list[bytes]]
) -> None:
    project = with_profile(tiny_project)
    start(project, STAGE_PROCESS, "a800_test", "SIGTERM", "a step", "9").wait()
    older = checkpoints(project)[0]
    folder = next(project.root.glob(".work/a800_test/*/rolling"))
    absent = project.run("stages.a800_test", "--resume", str(folder / "step-99"), check=False)
    assert absent.returncode == 1
    assert "step-99" in absent.stderr
    result = project.run("stages.a800_test", "--resume", str(folder / f"step-{older}"))
    assert f"step-{older} at step {older}" in result.stdout
    assert bits(project) == uninterrupted[1]
