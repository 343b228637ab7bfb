"""`taehv doctor`: look at everything, print it, and say by the exit code whether to start."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Literal

import typer

from taehv.config.params import TrainingStage, load_params
from taehv.config.profiles import load_profile
from taehv.runtime.errors import EXIT_FAILED


def doctor(
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A file of profiles/; without it TAEHV_PROFILE, or local."),
    ] = None,
    stage: Annotated[
        Literal[TrainingStage, "all"],
        typer.Option(help="About to run this stage alone, or all that the profile runs."),
    ] = "all",
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> int:
    """Check what can go wrong with a long run before it starts.

    Machine, disk, data, parameters and tracking: docs/doctor.md lists the checks.

    \b
    taehv doctor --profile h100
    taehv doctor --stage h100_train --json

    Exit code: 0 nothing failed (there may be warnings), 1 a check failed, 2 params.yaml or the profile is wrong.
    """
    from taehv.doctor import check
    from taehv.doctor.checks import examine
    from taehv.doctor.context import RunContext, stages_of

    params, profile_used = load_params(), load_profile(profile)
    stages = stages_of(profile_used) if stage == "all" else (stage,)
    check_results = examine(RunContext(params, profile_used, stages, whole_pipeline=stage == "all"))
    if as_json:
        print(json.dumps(check.as_json(check_results), indent=1))
    else:
        for line in check.lines(check_results, colours=sys.stdout.isatty() and "NO_COLOR" not in os.environ):
            print(line)
        print(check.summary(check_results))
    return EXIT_FAILED if check.has_failed(check_results) else 0
