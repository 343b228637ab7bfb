"""Whatever ends a training process, the next one goes on as if nothing had been. Real stages, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow import MlflowClient
from tests_support import Project, wait_for

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


def wait_until_it_hangs(process: subprocess.Popen[str]) -> None:
    output = process.stdout
    assert output is not None
    wait_for(lambda: "hanging" in output.readline(), "the step that hangs")


def ask_until_it_ends(process: subprocess.Popen[str]) -> None:
    """However long ago the first signal must be for another one to count."""
    deadline = time.monotonic() + 60
    while process.poll() is None:
        assert time.monotonic() < deadline, "it does not end"
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)


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


def test_killed_between_its_last_words_and_its_end_it_publishes_one_and_the_same_model(tiny_project: Project) -> None:
    """After the model has been told, and after the training was marked as finished."""
    project = tiny_project
    kept = []
    for moment in ("telling the tracking of the model", "marking the training as finished"):
        process = start(project, STAGE_PROCESS, "a800_test", "SIGKILL", moment)
        output, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, output
        (work,) = project.root.glob(".work/a800_test/*/best_model")
        kept.append([(work / name).read_bytes() for name in ("model.safetensors", "model_info.json")])
        kept[-1].append(work.with_name("summary.json").read_bytes())
    ended = project.run("stages.a800_test").stdout
    assert "PUBLISHED AGAIN, nothing is trained" in ended
    published = project.root / "runs/a800_test"
    names = ("best_model/model.safetensors", "best_model/model_info.json", "summary.json")
    assert kept == [[(published / name).read_bytes() for name in names]] * 2
    client = MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    experiment = client.get_experiment_by_name("taehv")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.stage = 'a800_test'")
    assert run.info.status == "FINISHED"
    assert len(client.search_logged_models([experiment.experiment_id])) == 1
    assert [path.name for path in published.parent.rglob("*.partial")] == []


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


def test_a_second_request_ends_it_at_once(tiny_project: Project) -> None:
    process = start(tiny_project, STAGE_PROCESS, "a800_test", "hang", "a step", "3")
    wait_until_it_hangs(process)
    ask_until_it_ends(process)
    assert process.returncode == 143
    assert checkpoints(tiny_project) == []


def test_signals_that_come_together_are_one_request(tiny_project: Project) -> None:
    """Slurm and systemd signal all processes, of which some are also asked by the one that started them."""
    process = start(tiny_project, STAGE_PROCESS, "a800_test", "SIGTERM+SIGTERM", "a step", "5")
    output, _ = process.communicate()
    assert process.returncode == 143, output
    assert checkpoints(tiny_project) == [5]


def test_a_second_request_reaches_the_workers_of_torchs_launcher(tiny_project: Project) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *launcher, STAGE_PROCESS, "a800_test", "hang", "a step", "2"]
    process = start(tiny_project, "-c", f"from taehv.launch import run_training\nrun_training({command!r})")
    wait_until_it_hangs(process)
    below = psutil.Process(process.pid).children(recursive=True)
    ask_until_it_ends(process)
    _, alive = psutil.wait_procs(below, timeout=60)
    assert alive == []


def test_the_end_of_the_shell_and_its_terminal_are_no_request_under_nohup(
    tiny_project: Project, uninterrupted: dict[int, list[bytes]]
) -> None:
    project = with_profile(tiny_project)
    stage = f"nohup {sys.executable} {STAGE_PROCESS} a800_test SIGHUP 'a step' 5 > nohup.log 2>&1"
    shell = subprocess.Popen(
        ["bash", "-c", f"{stage} & echo $!; wait"],
        cwd=project.root,
        env=project.environment({"PYTHONPATH": str(project.root)}),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert shell.stdout is not None
    trainer = psutil.Process(int(shell.stdout.readline()))
    wait_for(lambda: checkpoints(project), "a checkpoint")
    shell.kill()
    trainer.wait()
    assert bits(project) == uninterrupted[1], (project.root / "nohup.log").read_text()


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


@pytest.mark.parametrize("starter", [["dvc", "repro"], ["taehv.launch"]], ids=["dvc", "the launcher"])
def test_the_death_of_who_started_it_stops_the_training_with_a_checkpoint(
    tiny_project: Project, uninterrupted: dict[int, list[bytes]], starter: list[str]
) -> None:
    project = with_profile(tiny_project)
    process = start(project, "-m", *starter, "a800_test")
    wait_for(lambda: checkpoints(project), "a checkpoint")
    trainers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    _, alive = psutil.wait_procs(trainers, timeout=120)
    assert alive == [], "the trainer did not notice"
    assert not (project.root / "runs/a800_test/metrics.json").exists(), "it ended before its starter was killed"
    log = next(project.root.glob(".work/a800_test/*/train.log")).read_text()
    assert "step     24" not in log
    project.run("stages.a800_test")
    assert bits(project) == uninterrupted[1]


def test_a_second_trainer_is_refused_and_the_lock_of_a_killed_one_is_taken_over(tiny_project: Project) -> None:
    first = start(tiny_project, STAGE_PROCESS, "a800_test", "hang", "a step", "2")
    wait_until_it_hangs(first)
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
