"""The pipeline on a machine: what DVC is asked for, and what that means there.

Nothing here changes a result. DVC does not see the profile: it reaches the stages as the environment variable
TAEHV_PROFILE, so that moving to another machine invalidates nothing.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence

import psutil

from taehv.config.batch_shares import micro_batches, slots_of_rank
from taehv.config.params import Params, TrainingStage
from taehv.config.profiles import ENVIRONMENT_VARIABLE, Profile
from taehv.launch import dvc_yaml
from taehv.launch.processes import run_stoppable, terminate, training_command
from taehv.runtime import paths, signals
from taehv.runtime.errors import ConfigError, UserError


def pipeline_command(profile: Profile, targets: Sequence[str] = (), overrides: Sequence[str] = ()) -> list[str]:
    """How DVC is asked for the profile's stages.

    With changed params it is an experiment in a folder of its own: neither params.yaml nor the results in the workspace
    change, and `dvc exp show` and `dvc exp apply` know it afterwards.
    """
    wanted = targets or profile.targets
    if not overrides:
        return [sys.executable, "-m", "dvc", "repro", *wanted]
    changes = [word for override in overrides for word in ("-S", override)]
    return [sys.executable, "-m", "dvc", "exp", "run", "--temp", *changes, *wanted]


def check_git() -> None:
    """Raises UserError where DVC cannot run an experiment, because it has no commit to start from."""
    command = ["git", "rev-parse", "--quiet", "--verify", "HEAD"]
    if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
        raise UserError(
            "--set runs a DVC experiment, which needs a git repository with a commit; without one, change params.yaml "
            "and run without --set"
        )


def describe_plan(profile: Profile, params: Params, targets: Sequence[str] = (), overrides: Sequence[str] = ()) -> str:
    """What would be run, and the arithmetic of a step."""
    lines = [
        f"profile    {profile.name}: {profile.description}",
        f"pipeline   {ENVIRONMENT_VARIABLE}={profile.name} {_shown(pipeline_command(profile, targets, overrides))}",
    ]
    stages: tuple[TrainingStage, ...] = ("a800_test", "h100_train")
    for stage in stages:
        lines.append(f"{stage:<10} {_shown(training_command(profile, stage))}")
    for name, scale in params.scales.items():
        chosen = " (params.yaml)" if name == params.scale else ""
        steps = f"{scale.steps.a800_test:,} and {scale.steps.h100_train:,} steps in {scale.precision}"
        try:
            batch = describe_batch(profile, scale.batch.global_)
        except ConfigError as error:
            batch = f"does not run on this profile: {error.problems[0]}"
        lines += [f"scale      {name}{chosen}: {steps}", f"           batch: {batch}"]
    return "\n".join(lines)


def fits(profile: Profile, params: Params) -> bool:
    """Whether the scale of params.yaml runs on the profile."""
    try:
        describe_batch(profile, params.active.batch.global_)
    except ConfigError:
        return False
    return True


def describe_batch(profile: Profile, global_batch: int) -> str:
    """How the global batch is shared out.

    Raises:
        ConfigError: there are more processes than clips in a batch.
    """
    shares = [slots_of_rank(global_batch, profile.processes, rank) for rank in range(profile.processes)]
    if profile.per_device == "auto":
        listed = " + ".join(str(len(share)) for share in shares)
        return f"{global_batch} global = {listed} slots, in micro-batches as large as memory allows"
    sizes = [[len(group) for group in micro_batches(share, profile.per_device)] for share in shares]
    if all(size == sizes[0] for size in sizes) and len(set(sizes[0])) == 1:
        slots = f"{_count(profile.processes, 'process')} x {_count(len(shares[0]), 'slot')}"
        return f"{global_batch} global = {slots} = {_count(len(sizes[0]), 'micro-batch')} of {sizes[0][0]} per process"
    listed = " + ".join(str(len(share)) for share in shares)
    groups = "; ".join("+".join(map(str, size)) for size in sizes)
    return f"{global_batch} global = {listed} slots over {profile.processes} processes (micro-batches {groups})"


def check_targets(targets: Sequence[str]) -> None:
    """Raises UserError where dvc.yaml has no such stage."""
    known = dvc_yaml.declared_stages()
    unknown = [target for target in targets if target not in known]
    if unknown:
        raise UserError(f"{', '.join(unknown)}: no such stage; {paths.DVC_YAML} has {', '.join(known)}")


def run_pipeline(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run DVC; a request to stop reaches the stage that it is running, and DVC ends when the stage has ended."""
    ours = {**environment, signals.LAUNCHER_VARIABLE: str(os.getpid())}
    return run_stoppable(command, ours, lambda pid: terminate(_running_stage(pid) or [pid]))


def _running_stage(pid: int) -> list[int]:
    """The stage's first process below ``pid``, if there is one."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if any(word.startswith("stages.") for word in process.cmdline()):
                    return [process.pid]
    return []


def _shown(command: Sequence[str]) -> str:
    return shlex.join(["python", *command[1:]])


def _count(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith(("s", "ch")) else "s")
    return f"{number} {noun if number == 1 else plural}"
