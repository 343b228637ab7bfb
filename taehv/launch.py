"""From a profile to processes: `python -m taehv.launch` runs the pipeline, and the training stages start their workers.

Nothing here changes a result. DVC does not see the profile: it reaches the stages as the environment variable
TAEHV_PROFILE, so that moving to another machine invalidates nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

import psutil

from taehv import dvc_locks, dvc_yaml, launched, output_places, paths, stop_signals
from taehv.errors import EXIT_BAD_CONFIG, UserError, exit_with
from taehv.params import Params, TrainingStage, load_params
from taehv.profiles import DEFAULT_PROFILE, ENVIRONMENT_VARIABLE, PROFILES_FOLDER, Profile, load_profile
from taehv.strict_config import ConfigError, Problem
from taehv.training.slots import micro_batches, slots_of_rank

ACCELERATE_CONFIG = paths.PROFILES / "accelerate" / "nothing.yaml"
OF_ANOTHER_DVC = ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")
"""What a DVC sets for its stages; ours would take those of another, of which the launcher is a stage, for its own."""
SECONDS_TO_STOP_IN = 300
"""Before torch's launcher kills workers that were asked to stop. Its own 30 s are less than a step, a validation, a
checkpoint and what is left to tell the tracking store (at most 60 s) can take together. It waits as long where one
worker has failed and the others hang in an exchange with it, so not longer than that."""


def training_command(profile: Profile, stage: TrainingStage) -> list[str]:
    """How the training processes of a stage are started. Precision is the scale's business, set inside the code.

    accelerate gets a configuration file that says nothing, or it would take the user's own (`accelerate config`).
    """
    module = ["-m", f"stages.{stage}"]
    if profile.launcher == "inline":
        return [sys.executable, *module]
    count = str(profile.processes)
    if profile.launcher == "torchrun":
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count, *module]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ACCELERATE_CONFIG)]
    return [
        *launch,
        "--multi_gpu",
        "--num_machines",
        "1",
        "--num_processes",
        count,
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        *module,
    ]


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


def run_if_launcher_needed(profile: Profile, stage: TrainingStage) -> int | None:
    """Start a stage's training processes and wait for them; returns their exit code.

    Returns None where this process trains itself: it is one of the started ones, or the profile needs only one.

    Raises:
        ConfigError: the profile's GPUs are not on this machine.
        UserError: the launcher above this process has started another number of processes than the profile says.
    """
    check_gpus(profile)
    started = launched.launched_processes()
    if started is not None and started != profile.processes:
        raise UserError(
            f"{started} training process(es) were started, but profile {profile.name} has {profile.processes}: start "
            f"the stage itself, which starts them (python -m stages.{stage}), or choose another profile"
        )
    if started is not None or profile.launcher == "inline":
        return None
    return run_training(training_command(profile, stage), profile.processes)


def check_gpus(profile: Profile) -> None:
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


def describe(profile: Profile, params: Params, targets: Sequence[str] = (), overrides: Sequence[str] = ()) -> str:
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


def _count(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith(("s", "ch")) else "s")
    return f"{number} {noun if number == 1 else plural}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from taehv.overrides import overridden_params, split_overrides  # needs hydra, which comes with DVC

    parser = argparse.ArgumentParser(prog="python -m taehv.launch", description="Run the pipeline on a machine.")
    parser.add_argument("--profile", default=None, help=f"a file of profiles/ (default: {DEFAULT_PROFILE})")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the commands and the batch arithmetic, run nothing"
    )
    parser.add_argument(
        "--set",
        default="",
        metavar="'KEY=VALUE ...'",
        help="change params for this run only: it becomes a DVC experiment, and params.yaml stays as it is",
    )
    parser.add_argument("targets", nargs="*", help="DVC stages to run up to (default: the profile's)")
    options = parser.parse_args(arguments)
    profile, overrides = load_profile(options.profile), split_overrides(options.set)
    params = overridden_params(overrides) if overrides else load_params()
    check_targets(options.targets or profile.targets)
    if options.dry_run:
        print(describe(profile, params, options.targets, overrides))
        return 0 if fits(profile, params) else EXIT_BAD_CONFIG
    if overrides:
        check_git()
    check_gpus(profile)
    describe_batch(profile, params.active.batch.global_)
    output_places.check()
    for done in dvc_locks.mend_lock_lists():
        print(done, file=sys.stderr)
    environment = {**launched.without_inherited(os.environ), ENVIRONMENT_VARIABLE: profile.name}
    for name in () if paths.is_run_by_our_dvc() else OF_ANOTHER_DVC:
        environment.pop(name, None)
    return run_pipeline(pipeline_command(profile, options.targets, overrides), environment)


def check_targets(targets: Sequence[str]) -> None:
    """Raises UserError where dvc.yaml has no such stage."""
    known = dvc_yaml.declared_stages()
    unknown = [target for target in targets if target not in known]
    if unknown:
        raise UserError(f"{', '.join(unknown)}: no such stage; {paths.DVC_YAML} has {', '.join(known)}")


def run_training(command: Sequence[str], processes: int) -> int:
    """Run the launcher of so many training processes; a request to stop reaches it once, as SIGTERM."""
    patient = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SECONDS_TO_STOP_IN), **launched.without_inherited(os.environ)}
    return _run(command, {**patient, **launched.mark(processes)}, lambda pid: _terminate([pid]))


def run_pipeline(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run DVC; a request to stop reaches the stage that it is running, and DVC ends when the stage has ended."""
    ours = {**environment, stop_signals.LAUNCHER_VARIABLE: str(os.getpid())}
    return _run(command, ours, lambda pid: _terminate(_running_stage(pid) or [pid]))


def _run(command: Sequence[str], environment: Mapping[str, str], stop: Callable[[int], None]) -> int:
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

    with stop_signals.listening(first, again):
        child = subprocess.Popen(command, env=dict(environment), start_new_session=True)
        started.append(child.pid)
        if asked:
            stop(child.pid)
        code = child.wait()
    if asked:
        return stop_signals.EXIT_CODES[asked[0]]
    return 128 - code if code < 0 else code


def _terminate(pids: Sequence[int]) -> None:
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


def _known_profiles() -> str:
    return ", ".join(sorted(path.stem for path in PROFILES_FOLDER.glob("*.yaml")))


if __name__ == "__main__":
    exit_with(main)
