"""The doctor at the start of a training stage: quick checks, silent about what is well."""

from __future__ import annotations

import logging
import os

from taehv.doctor.checks import examine
from taehv.doctor.context import Examination
from taehv.doctor.report import has_failed, lines, summary
from taehv.runtime.errors import UserError
from taehv.runtime.launched import launched_processes
from taehv.training.console import start_logging
from taehv.training.run_spec import TrainingJob

SKIP = "TAEHV_SKIP_DOCTOR"

log = logging.getLogger("taehv.doctor")


def check_before_training(job: TrainingJob) -> None:
    """Look once, in the process that launches the others; warnings go to train.log too.

    Raises:
        UserError: a check failed; the message lists all that did.
    """
    if launched_processes() is not None:
        return  # the launching process has looked
    if os.environ.get(SKIP) == "1":
        start_logging(job.work.log, main_process=True)
        log.warning("WARNING: %s=1: %s starts without being checked", SKIP, job.stage)
        return
    stages = (job.stage,)
    findings = examine(Examination(job.params, job.profile, stages, whole_pipeline=False, at_start_of_stage=True))
    if has_failed(findings):
        failed = [finding for finding in findings if finding.level != "pass"]
        shown = "\n".join(f"  {line}" for line in lines(failed))
        raise UserError(
            f"{job.stage} does not start ({summary(findings)}):\n{shown}\n  {SKIP}=1 starts it all the same"
        )
    start_logging(job.work.log, main_process=True)
    log.info("%s", summary(findings))
    for line in lines([finding for finding in findings if finding.level == "warn"]):
        log.warning("%s", line)
