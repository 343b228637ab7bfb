"""Whether MLflow can be reached and written."""

from __future__ import annotations

from taehv.doctor.examination import Examination
from taehv.doctor.finding import Finding, Level

MEND = "start the server or mend MLFLOW_TRACKING_URI; without it the run goes on, and its journal keeps everything"


def check_tracking_store(examination: Examination) -> list[Finding]:
    """A dead server never stops a stage; before the run it is a failure, because now it can still be mended."""
    probe = examination.probe
    if probe.unusable is not None:
        return [Finding("MLflow", "fail", probe.unusable, "set MLFLOW_TRACKING_URI to an MLflow server, or unset it")]
    if probe.dead is not None:
        level: Level = "warn" if examination.at_start_of_stage else "fail"
        return [Finding("MLflow", level, f"{probe.uri} does not work: {probe.dead}", MEND)]
    return [Finding("MLflow", "pass", f"{probe.uri}: {probe.what}, {probe.seconds * 1000:.0f} ms")]
