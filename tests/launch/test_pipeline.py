"""A profile becomes exact commands; what a machine cannot run is one clear message."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.project import REPOSITORY, Project, wait_for

from taehv.config.batch_shares import micro_batches, slots_of_rank
from taehv.config.params import load_params
from taehv.config.profiles import Profile, load_profile
from taehv.launch.pipeline import describe_batch, describe_plan
from taehv.launch.processes import run_if_launcher_needed, training_command
from taehv.runtime import launched
from taehv.runtime.errors import UserError

PARAMS = load_params(REPOSITORY / "params.yaml")
LAUNCH = [sys.executable, "-m", "taehv.launch"]

TORCHRUN = "python -m torch.distributed.run --standalone --nproc_per_node 8 -m stages.h100_train"


def profile(name: str) -> Profile:
    return load_profile(name, REPOSITORY / "profiles")


def launch(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LAUNCH, *arguments], cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("local", ["TAEHV_PROFILE=local python -m dvc repro evaluate", "h100_train python -m stages.h100_train"]),
        ("a800", ["TAEHV_PROFILE=a800 python -m dvc repro gate_psnr", f"h100_train {TORCHRUN}"]),
        ("h100", ["TAEHV_PROFILE=h100 python -m dvc repro evaluate", f"h100_train {TORCHRUN}"]),
    ],
)
def test_a_dry_run_prints_the_exact_commands_on_a_machine_without_gpus(name: str, lines: list[str]) -> None:
    result = launch("--profile", name, "--dry-run")
    for line in lines:
        assert any(shown.endswith(line) for shown in result.stdout.splitlines()), result.stdout


def test_the_large_scale_on_eight_gpus_is_the_guides_batch_arithmetic() -> None:
    shown = describe_plan(profile("h100"), PARAMS)
    assert "128 global = 8 processes x 16 slots = 8 micro-batches of 2 per process" in shown


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 9))
def test_the_printed_arithmetic_is_what_the_processes_compute(batch: int, processes: int, per_device: int) -> None:
    machine = profile("local").model_copy(update={"processes": processes, "per_device": per_device})
    if processes > batch:
        return
    groups = [
        [len(group) for group in micro_batches(slots_of_rank(batch, processes, rank), per_device)]
        for rank in range(processes)
    ]
    assert sum(map(sum, groups)) == batch
    text = describe_batch(machine, batch)
    assert text.startswith(f"{batch} global = ")
    if all(group == [per_device] * len(groups[0]) for group in groups):
        assert text.endswith(f" of {per_device} per process")


def test_a_torchrun_profile_starts_as_many_processes_as_it_says() -> None:
    two = profile("local").model_copy(update={"launcher": "torchrun", "processes": 2})
    command = training_command(two, "a800_test")
    assert command[1:] == [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "stages.a800_test",
    ]


def test_another_number_of_processes_than_the_profile_has_does_not_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(launched.VARIABLE, f"{os.getppid()}:3")
    two = profile("local").model_copy(update={"launcher": "torchrun", "processes": 2})
    with pytest.raises(UserError, match=r"3 training process\(es\) were started, but profile local has 2: start"):
        run_if_launcher_needed(two, "a800_test")
    assert run_if_launcher_needed(two.model_copy(update={"processes": 3}), "a800_test") is None, "it trains itself"


def test_absent_gpus_stop_everything_with_one_message() -> None:
    result = launch("--profile", "h100", CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "needs 8 GPU(s) named H100, this machine has no GPU" in result.stderr
    assert "Traceback" not in result.stderr


def test_evaluate_on_its_own_says_the_same_about_absent_gpus(tmp_path: Path) -> None:
    """Not in the repository: a stage that starts deletes its metrics there."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    shutil.copytree(REPOSITORY / "profiles", tmp_path / "profiles")
    command = [sys.executable, "-m", "stages.evaluate"]
    environment = {**os.environ, "TAEHV_PROFILE": "h100", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert "needs 8 GPU(s) named H100, this machine has no GPU" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_dry_run_shows_the_targets_it_was_given() -> None:
    result = launch("--dry-run", "gate_psnr")
    assert "python -m dvc repro gate_psnr\n" in result.stdout


def test_an_unknown_profile_is_an_error_that_lists_the_known_ones() -> None:
    result = launch("--profile", "b200")
    assert result.returncode == 2
    assert "must be one of a800, h100, local, ray, got 'b200'" in result.stderr


def test_a_broken_params_file_stops_before_dvc_starts(project: Project) -> None:
    project.change_params({"seed": "none", "loss": {"recon": -1}})
    result = project.run("taehv.launch", check=False)
    assert result.returncode == 2
    assert "seed" in result.stderr and "loss.recon" in result.stderr
    assert "Running stage" not in result.stdout


def test_the_exit_code_is_the_pipelines(project: Project) -> None:
    (project.root / "stages/prepare_data.py").write_text("raise SystemExit(3)\n")
    assert project.run("taehv.launch", "prepare_data", check=False).returncode == 255


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize("target", ["foo", "--force", "prepare_data.py"])
def test_a_target_that_is_no_stage_is_refused_before_anything_runs(dry: list[str], target: str) -> None:
    result = launch(*dry, "--", target)
    assert result.returncode == 1
    assert result.stderr == (
        f"error: {target}: no such stage; dvc.yaml has prepare_data, a800_test, gate_psnr, h100_train, evaluate\n"
    )


@pytest.mark.parametrize(("chosen", "code"), [("embedded", 2), ("full", 0)])
def test_a_dry_run_of_what_does_not_run_has_the_exit_code_of_the_run(chosen: str, code: int) -> None:
    result = launch("--profile", "h100", "--dry-run", "--set", f"scale={chosen}")
    assert result.returncode == code
    assert f"scale      {chosen} (params.yaml)" in result.stdout
    assert ("does not run on this profile" in result.stdout.split(f"{chosen} (params.yaml)")[1].split("scale ")[0]) == (
        code == 2
    )


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["prepare_data", "a800_test", "gate_psnr", "h100_train", "evaluate"])
def test_help_says_what_a_stage_does_and_runs_nothing(project: Project, stage: str) -> None:
    result = project.run(f"stages.{stage}", "--help")
    assert result.stdout.startswith(f"usage: python -m stages.{stage} [-h]")
    assert project.run(f"stages.{stage}", "--no-such-option", check=False).returncode == 2
    assert project.git("status", "--porcelain") == "" and not (project.root / ".work").exists()


STAGE_THAT_WAITS = """
import signal, sys, time
from pathlib import Path
def stop(number, _):
    with open("asked", "a") as file:
        file.write(signal.Signals(number).name + "\\n")
    time.sleep({ends_after})
    sys.exit(143)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, stop)
Path("started").touch()
time.sleep(600)
"""


def start_waiting_pipeline(project: Project, ends_after: float, **how: Any) -> subprocess.Popen[bytes]:
    """The launcher, once it runs a stage that notes what it is asked and takes its time to end."""
    (project.root / "stages/prepare_data.py").write_text(STAGE_THAT_WAITS.format(ends_after=ends_after))
    command = [sys.executable, "-m", "taehv.launch", "prepare_data"]
    process = subprocess.Popen(command, cwd=project.root, env=project.environment(), stderr=subprocess.DEVNULL, **how)
    wait_for((project.root / "started").exists, "the stage", seconds=120)
    return process


def asked(project: Project) -> list[str]:
    return (project.root / "asked").read_text().split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 143),
        pytest.param(signal.SIGUSR1, 143, marks=pytest.mark.soak),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.soak),  # the interrupt key's test sends it, too
    ],
)
def test_a_request_to_stop_reaches_the_stage_and_dvc_ends_with_it(
    project: Project, number: signal.Signals, code: int
) -> None:
    process = start_waiting_pipeline(project, ends_after=0)
    process.send_signal(number)
    assert process.wait() == code
    assert asked(project) == ["SIGTERM"]
    assert project.run("dvc", "status", check=False).returncode == 0, "DVC was left locked"


@pytest.mark.slow
def test_the_interrupt_key_of_a_terminal_asks_the_stage_once(project: Project) -> None:
    terminal, ours = pty.openpty()
    process = start_waiting_pipeline(project, ends_after=2, preexec_fn=lambda: os.login_tty(ours))
    os.close(ours)
    os.write(terminal, b"\x03")
    with contextlib.suppress(OSError):  # how Linux says that nobody has the terminal open any more
        while os.read(terminal, 4096):
            pass
    os.close(terminal)
    assert process.wait() == 130
    assert asked(project) == ["SIGTERM"]
    assert project.run("dvc", "status", check=False).returncode == 0, "DVC was left locked"


@pytest.mark.slow
def test_a_signal_to_the_whole_group_and_another_on_top_of_it_are_one_request(project: Project) -> None:
    """What `mlflow run` does when it is interrupted."""
    process = start_waiting_pipeline(project, ends_after=2, start_new_session=True)
    os.killpg(process.pid, signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert process.wait() in (130, 143)
    assert asked(project) == ["SIGTERM"]


@pytest.mark.slow
def test_a_second_request_ends_everything_at_once(project: Project) -> None:
    process = start_waiting_pipeline(project, ends_after=600)
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    wait_for((project.root / "asked").exists, "the request", seconds=120)
    while process.poll() is None:
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
    assert process.returncode in (143, -signal.SIGTERM), "the last one may come when nobody listens any more"
    _, alive = psutil.wait_procs(started, timeout=30)
    assert alive == []
    assert asked(project) == ["SIGTERM"]


@pytest.mark.parametrize(("own", "seconds"), [({}, 300), ({"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "5"}, 5)])
def test_torchs_launcher_gives_its_workers_time_to_stop(own: dict[str, str], seconds: int, tmp_path: Path) -> None:
    launcher = (
        "from torch.distributed.launcher.api import LaunchConfig; from pathlib import Path; "
        "Path('seconds').write_text(str(LaunchConfig(1, 1, 1).shutdown_timeout))"
    )
    program = (
        "import sys; from taehv.launch.processes import run_training\n"
        f"run_training([sys.executable, '-c', {launcher!r}], 1)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **own}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "seconds").read_text() == str(seconds)


def test_a_stage_outside_the_environment_says_how_to_enter_it() -> None:
    without_packages = [sys.executable, "-S", "-m", "stages.prepare_data"]
    result = subprocess.run(without_packages, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 1
    assert "source .venv/bin/activate" in result.stderr
    assert "Traceback" not in result.stderr
