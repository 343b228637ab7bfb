"""`taehv doctor`: look at everything, print it, and say by the exit code whether to start."""

from __future__ import annotations

import json
import os
import sys
from typing import Literal

from taehv.config.params import TrainingStage, load_params
from taehv.config.profiles import load_profile
from taehv.doctor import report
from taehv.doctor.checks import examine
from taehv.doctor.context import RunContext, stages_of
from taehv.runtime.errors import EXIT_FAILED


def doctor(profile_name: str | None, stage: TrainingStage | Literal["all"], *, as_json: bool) -> int:
    """Print the findings; returns 0 where nothing failed.

    Raises:
        ConfigError: params.yaml or the profile has problems; all of them are listed.
    """
    params, profile = load_params(), load_profile(profile_name)
    stages = stages_of(profile) if stage == "all" else (stage,)
    check_results = examine(RunContext(params, profile, stages, whole_pipeline=stage == "all"))
    if as_json:
        print(json.dumps(report.as_json(check_results), indent=1))
    else:
        for line in report.lines(check_results, colours=sys.stdout.isatty() and "NO_COLOR" not in os.environ):
            print(line)
        print(report.summary(check_results))
    return EXIT_FAILED if report.has_failed(check_results) else 0
