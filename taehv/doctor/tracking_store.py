"""Whether MLflow can be reached and written."""

from __future__ import annotations

from taehv.doctor.check import Check, Level
from taehv.doctor.context import RunContext

FIX = "start the server or fix MLFLOW_TRACKING_URI; without it the run goes on, and its journal keeps everything"


def check_tracking_store(context: RunContext) -> list[Check]:
    """A dead server never stops a stage; before the run it is a failure, because now it can still be fixed."""
    probe = context.probe
    if probe.unusable is not None:
        advice = "do what the line above says; MLFLOW_TRACKING_URI names an MLflow server, or is not set"
        return [Check("MLflow", "fail", probe.unusable, advice)]
    if probe.dead is not None:
        level: Level = "warn" if context.at_start_of_stage else "fail"
        return [Check("MLflow", level, f"{probe.uri} does not work: {probe.dead}", FIX)]
    if probe.untested is not None:
        advice = "look at the run there when the first stage has ended"
        return [Check("MLflow", "warn", f"{probe.uri}: {probe.what}; {probe.untested}", advice)]
    return [Check("MLflow", "pass", f"{probe.uri}: {probe.what}, {probe.seconds * 1000:.0f} ms")]
