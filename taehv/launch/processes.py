"""The training processes of a stage: the GPUs that they need, how they are started, how they are stopped."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

import psutil

from taehv.config.params import TrainingStage
from taehv.config.profiles import PROFILES_FOLDER, Profile
from taehv.runtime import launched, signals
from taehv.runtime.errors import ConfigError, Problem, UserError

SECONDS_TO_STOP_IN = 300
"""Before torch's launcher kills workers that were asked to stop. Its own 30 s are less than a step, a validation, a
checkpoint and what is left to tell the tracking store (at most 60 s) can take together. It waits as long where one
worker has failed and the others hang in an exchange with it, so not longer than that."""


def training_command(profile: Profile, stage: TrainingStage) -> list[str]:
    """How the training processes of a stage are started. Precision is the scale's business, set inside the code."""
    module = ["-m", f"stages.{stage}"]
    if profile.launcher == "inline":
        return [sys.executable, *module]
    count = str(profile.processes)
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count, *module]


def run_if_launcher_needed(profile: Profile, stage: TrainingStage) -> int | None:
    """Start a stage's training processes and wait for them; returns their exit code.

    Returns None where this process trains itself: it is one of the started ones, or the profile needs only one.

    Raises:
        ConfigError: the profile's GPUs are not on this machine.
        UserError: the launcher above this process has started another number of processes than the profile says.
    """
    require_gpus(profile)
    started = launched.launched_processes()
    if started is not None and started != profile.processes:
        raise UserError(
            f"{started} training process(es) were started, but profile {profile.name} has {profile.processes}: start "
            f"the stage itself, which starts them (python -m stages.{stage}), or choose another profile"
        )
    if started is not None or profile.launcher == "inline":
        return None
    return run_training(training_command(profile, stage), profile.processes)


def require_gpus(profile: Profile) -> None:
    """Compare the GPUs of this machine with the profile's.

    Raises:
        ConfigError: there are too few, or they are of another kind.
    """
    if profile.gpus == 0:
        return
    import torch

    found = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    wanted = f"{profile.gpus} GPU(s)" + (f" named {profile.gpu_name}" if profile.gpu_name else "")
    fitting = [name for name in found if (profile.gpu_name or "") in name]
    if len(fitting) < profile.gpus:
        shown = ", ".join(found) or "no GPU"
        raise ConfigError(
            f"profile {profile.name}",
            [
                Problem(
                    "gpus",
                    f"needs {wanted}, this machine has {shown}; choose another profile with --profile "
                    f"(known: {_known_profiles()}), or describe this machine in profiles/<name>.yaml",
                )
            ],
        )


def run_training(command: Sequence[str], processes: int) -> int:
    """Run the launcher of so many training processes; a request to stop reaches it once, as SIGTERM."""
    patient = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SECONDS_TO_STOP_IN), **launched.without_inherited(os.environ)}
    return run_stoppable(command, {**patient, **launched.mark(processes)}, lambda pid: terminate([pid]))


def run_stoppable(command: Sequence[str], environment: Mapping[str, str], stop: Callable[[int], None]) -> int:
    """A program's exit code; after a signal, 128 plus its number. A second request kills it and everything below it.

    It runs in a session of its own: the interrupt key would otherwise reach what runs below twice, from the terminal
    and from here.
    """
    asked: list[str] = []
    started: list[int] = []

    def first(name: str) -> None:
        asked.append(name)
        for pid in started:
            stop(pid)

    def again(name: str) -> None:
        for pid in started:
            _kill_tree(pid)

    with signals.listening(first, again):
        child = subprocess.Popen(command, env=dict(environment), start_new_session=True)
        started.append(child.pid)
        if asked:
            stop(child.pid)
        code = child.wait()
    if asked:
        return signals.EXIT_CODES[asked[0]]
    return 128 - code if code < 0 else code


def terminate(pids: Sequence[int]) -> None:
    """SIGTERM to those that are still there."""
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).terminate()


def _kill_tree(pid: int) -> None:
    """Kill a process and everything below it: torch's workers are in sessions of their own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [*root.children(recursive=True), root]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _known_profiles() -> str:
    return ", ".join(sorted(path.stem for path in PROFILES_FOLDER.glob("*.yaml")))
