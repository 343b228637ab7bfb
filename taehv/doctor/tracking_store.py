"""Whether MLflow can be reached and written."""

from __future__ import annotations

from taehv.doctor.check_result import Finding, Level
from taehv.doctor.context import Examination

MEND = "start the server or mend MLFLOW_TRACKING_URI; without it the run goes on, and its journal keeps everything"


def check_tracking_store(examination: Examination) -> list[Finding]:
    """A dead server never stops a stage; before the run it is a failure, because now it can still be mended."""
    probe = examination.probe
    if probe.unusable is not None:
        advice = "do what the line above says; MLFLOW_TRACKING_URI names an MLflow server, or is not set"
        return [Finding("MLflow", "fail", probe.unusable, advice)]
    if probe.dead is not None:
        level: Level = "warn" if examination.at_start_of_stage else "fail"
        return [Finding("MLflow", level, f"{probe.uri} does not work: {probe.dead}", MEND)]
    if probe.untested is not None:
        advice = "look at the run there when the first stage has ended"
        return [Finding("MLflow", "warn", f"{probe.uri}: {probe.what}; {probe.untested}", advice)]
    return [Finding("MLflow", "pass", f"{probe.uri}: {probe.what}, {probe.seconds * 1000:.0f} ms")]
