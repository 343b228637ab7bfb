"""Whatever ends a training process, the next one goes on as if nothing had been. Real stages, real signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from support.built_once import built_once
from support.failpoints import Hold, at
from support.project import Project, wait_for
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from taehv.runtime.failpoints import Failpoint

pytestmark = pytest.mark.slow

STAGE = ("-m", "stages.a800_test")
SAME_BITS = ("best_model/model.safetensors", "validation_history.json")

MOMENTS = [
    (Failpoint.STEP, 1),
    (Failpoint.VALIDATION, 2),
    (Failpoint.CHECKPOINT_FILES, 1),
    (Failpoint.CHECKPOINT_MANIFEST, 1),
    (Failpoint.CHECKPOINT_IN_PLACE, 1),
    (Failpoint.CHECKPOINT_DELETION, 1),
    (Failpoint.STEP, 6),
    (Failpoint.BEST_MODEL, 2),
    (Failpoint.HISTORY, 2),
    (Failpoint.PUBLISHED_PART, 3),
]
"""In this order, every one is reached before training ends."""
MOMENTS_OF_A_FEW_MINUTES = [MOMENTS[number] for number in (0, 2, 4, 7, 9)]
"""What `make test` has time for; all of them, and two processes, are in `make soak`."""
MOMENTS_OF_TWO = [
    (Failpoint.STEP, 2),
    (Failpoint.CHECKPOINT_FILES, 1),
    (Failpoint.VALIDATION, 3),
    (Failpoint.BEST_MODEL, 2),
]
"""The same, with a second process, which is then ended by the launcher; in `make soak` the moments are random."""


def with_profile(project: Project, processes: int = 1) -> Project:
    """A checkpoint after every step, and so many processes."""
    launcher = "torchrun" if processes > 1 else "inline"
    project.change_profile(checkpoint_every=1, processes=processes, launcher=launcher, log_every=1)
    return project


def start(project: Project, *command: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *(command or STAGE)],
        cwd=project.root,
        env=project.environment(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


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


@pytest.fixture
def hold(tmp_path: Path) -> Hold:
    return Hold(tmp_path / "go-on")


@pytest.fixture(scope="module")
def uninterrupted(
    finished: Project, prepared_tiny_project: Project, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, list[bytes]]:
    """What one process, and two, leave when nothing happens to them."""

    def build(folder: Path) -> None:
        with_profile(prepared_tiny_project.copy(folder / "project"), processes=2).run("stages.a800_test")

    two = Project(built_once(tmp_path_factory, "two-processes", build) / "project")
    return {1: bits(finished), 2: bits(two)}


@pytest.mark.parametrize(
    ("processes", "moments"),
    [
        (1, MOMENTS_OF_A_FEW_MINUTES),
        pytest.param(1, MOMENTS, marks=pytest.mark.soak),
        pytest.param(2, MOMENTS_OF_TWO, marks=pytest.mark.soak),
    ],
    ids=["1", "1, all", "2"],
)
def test_killed_at_every_delicate_moment_it_ends_with_the_same_bits(
    tiny_project: Project, uninterrupted: dict[int, list[bytes]], processes: int, moments: list[tuple[Failpoint, int]]
) -> None:
    project = with_profile(tiny_project, processes)
    for moment, count in moments:
        process = start(project, **at(moment, "SIGKILL", count))
        output, _ = process.communicate()
        assert process.returncode == (-signal.SIGKILL if processes == 1 else 1), f"{moment} was not reached:\n{output}"
    ended = project.run("stages.a800_test").stdout
    assert "was training here and is gone; its lock is taken over" in ended
    assert bits(project) == uninterrupted[processes]
    assert not list(project.root.glob(".work/a800_test/*/rolling"))
    events = EventAccumulator(str(project.root / "runs/a800_test/tensorboard")).Reload()
    for tag in ("train/loss", "val/psnr"):
        steps = [point.step for point in events.Scalars(tag)]
        assert steps == sorted(set(steps)), f"TensorBoard shows a step of {tag} twice"


def test_killed_between_its_last_words_and_its_end_it_publishes_one_and_the_same_model(tiny_project: Project) -> None:
    """After the model has been told, and after the training was marked as finished."""
    project = tiny_project
    kept = []
    for moment in (Failpoint.MODEL_TRACKED, Failpoint.FINISHED):
        process = start(project, **at(moment, "SIGKILL"))
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


LEFT_BY_A_CLUSTER = {
    **{"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "9"},
    **{"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "1", "PET_NNODES": "4", "PET_MAX_RESTARTS": "9"},
    **{
        "OMPI_COMM_WORLD_SIZE": "4",
        "PMI_SIZE": "4",
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_USE_CPU": "false",
    },
    **{
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
        "ACCELERATE_USE_FSDP": "true",
        "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    },
}
"""Of a job that runs one process of ours per machine, of an MPI, and of someone's `accelerate config`."""


SOMEONES_ACCELERATE_CONFIG = {
    **{
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "DEEPSPEED",
        "mixed_precision": "fp16",
        "debug": False,
    },
    **{"num_machines": 2, "machine_rank": 1, "main_process_ip": "192.0.2.1", "main_process_port": 9, "use_cpu": False},
    **{"num_processes": 16, "deepspeed_config": {"zero_stage": 3, "gradient_accumulation_steps": 4}},
}


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_cluster_left_in_the_environment_changes_neither_processes_nor_bits(
    tiny_project: Project, uninterrupted: dict[int, list[bytes]], tmp_path: Path, processes: int
) -> None:
    project = with_profile(tiny_project, processes)
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate/default_config.yaml").write_text(yaml.safe_dump(SOMEONES_ACCELERATE_CONFIG))
    left = LEFT_BY_A_CLUSTER | {"HF_HOME": str(tmp_path), "WORLD_SIZE": "2" if processes == 1 else "1"}
    project.run("stages.a800_test", check=True, **left)
    assert project.json("runs/a800_test/summary.json")["batch"]["processes"] == processes
    assert bits(project) == uninterrupted[processes]


REQUESTS = [("SIGINT", 130), ("SIGTERM+SIGTERM", 143)]
"""The last one: Slurm and systemd signal all processes, of which some are also asked by the one that started them."""
OTHER_REQUESTS = [("SIGTERM", 143), ("SIGUSR1", 143), ("SIGHUP", 143)]


@pytest.mark.parametrize(
    "requests",
    [REQUESTS, pytest.param(OTHER_REQUESTS, marks=pytest.mark.soak)],
    ids=["two", "the others"],
)
def test_a_request_to_stop_finishes_the_step_saves_and_says_how_to_go_on(
    tiny_project: Project, uninterrupted: dict[int, list[bytes]], requests: list[tuple[str, int]]
) -> None:
    """One training, stopped by each signal in turn: one MLflow run, with the bits of one that was never stopped."""
    client = MlflowClient(f"sqlite:///{tiny_project.root}/mlflow.db")
    known = set()
    for number, (names, code) in enumerate(requests, start=1):
        name, step = names.partition("+")[0], 3 * number
        process = start(tiny_project, **at(Failpoint.STEP, names, 3))
        output, _ = process.communicate()
        assert process.returncode == code, output
        assert f"stopped by {name}: a800_test is at step {step}" in output
        assert checkpoints(tiny_project)[-1] == step
        run = run_of(client)
        assert (run.info.status, run.data.tags["interrupted"]) == ("KILLED", name)
        known.add(run.info.run_id)
    tiny_project.run("stages.a800_test")
    assert bits(tiny_project) == uninterrupted[1]
    run = run_of(client)
    assert run.info.status == "FINISHED", "the same MLflow run went on"
    assert known == {run.info.run_id}


def run_of(client: MlflowClient) -> Run:
    """The only run of a800_test."""
    experiment = client.get_experiment_by_name("taehv")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.stage = 'a800_test'")
    return run


def test_a_second_request_reaches_the_workers_of_torchs_launcher(tiny_project: Project, hold: Hold) -> None:
    process = start(with_profile(tiny_project, processes=2), **hold.at(Failpoint.STEP, 2))
    hold.wait()
    below = psutil.Process(process.pid).children(recursive=True)
    ask_until_it_ends(process)
    _, alive = psutil.wait_procs(below, timeout=60)
    assert alive == []


@pytest.mark.soak
def test_the_end_of_the_shell_and_its_terminal_are_no_request_under_nohup(
    tiny_project: Project, uninterrupted: dict[int, list[bytes]]
) -> None:
    project = with_profile(tiny_project)
    stage = f"nohup {sys.executable} {' '.join(STAGE)} > nohup.log 2>&1"
    shell = subprocess.Popen(
        ["bash", "-c", f"{stage} & echo $!; wait"],
        cwd=project.root,
        env=project.environment(at(Failpoint.STEP, "SIGHUP", 5)),
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
    process = start(project)
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


@pytest.mark.parametrize(
    "starter",
    [["dvc", "repro"], pytest.param(["taehv.launch"], marks=pytest.mark.soak)],
    ids=["dvc", "the launcher"],
)
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


def test_resume_goes_back_to_a_named_checkpoint(tiny_project: Project, uninterrupted: dict[int, list[bytes]]) -> None:
    project = with_profile(tiny_project)
    start(project, **at(Failpoint.STEP, "SIGTERM", 9)).communicate()
    older = checkpoints(project)[0]
    folder = next(project.root.glob(".work/a800_test/*/rolling"))
    result = project.run("stages.a800_test", "--resume", str(folder / f"step-{older}"))
    assert f"step-{older} at step {older}" in result.stdout
    assert bits(project) == uninterrupted[1]
