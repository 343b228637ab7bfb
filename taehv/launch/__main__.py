"""`python -m taehv.launch`: the pipeline on a machine, from the command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from taehv.config.params import load_params
from taehv.config.profiles import DEFAULT_PROFILE, ENVIRONMENT_VARIABLE, load_profile
from taehv.launch import dvc_locks
from taehv.launch.dvc_yaml import check_output_places
from taehv.launch.pipeline import (
    check_git,
    check_targets,
    describe_batch,
    describe_plan,
    fits,
    pipeline_command,
    run_pipeline,
)
from taehv.launch.processes import require_gpus
from taehv.runtime import launched, paths
from taehv.runtime.errors import EXIT_BAD_CONFIG, exit_with

OF_ANOTHER_DVC = ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")
"""What a DVC sets for its stages; ours would take those of another, of which the launcher is a stage, for its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from taehv.config.overrides import overridden_params, split_overrides  # needs hydra, which comes with DVC

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
        print(describe_plan(profile, params, options.targets, overrides))
        return 0 if fits(profile, params) else EXIT_BAD_CONFIG
    if overrides:
        check_git()
    require_gpus(profile)
    describe_batch(profile, params.active.batch.global_)
    check_output_places()
    for done in dvc_locks.fix_lock_lists():
        print(done, file=sys.stderr)
    environment = {**launched.without_inherited(os.environ), ENVIRONMENT_VARIABLE: profile.name}
    for name in () if paths.is_run_by_our_dvc() else OF_ANOTHER_DVC:
        environment.pop(name, None)
    return run_pipeline(pipeline_command(profile, options.targets, overrides), environment)


if __name__ == "__main__":
    exit_with(main)
