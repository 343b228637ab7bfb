"""The doctor at the start of a training stage: quick checks, silent about what is well."""

from __future__ import annotations

import logging
import os

from taehv.doctor.check import has_failed, lines, summary
from taehv.doctor.checks import examine
from taehv.doctor.context import RunContext
from taehv.runtime.errors import UserError
from taehv.runtime.launched import launched_processes
from taehv.training.console import start_logging
from taehv.training.run_spec import RunSpec

SKIP = "TAEHV_SKIP_DOCTOR"

log = logging.getLogger("taehv.doctor")


def check_before_training(spec: RunSpec) -> None:
    """Look once, in the process that launches the others; warnings go to train.log too.

    Raises:
        UserError: a check failed; the message lists all that did.
    """
    if launched_processes() is not None:
        return  # the launching process has looked
    if os.environ.get(SKIP) == "1":
        start_logging(spec.work.log, main_process=True)
        log.warning("WARNING: %s=1: %s starts without being checked", SKIP, spec.stage)
        return
    stages = (spec.stage,)
    context = RunContext(spec.params, spec.profile, stages, False, at_start_of_stage=True, opened=spec.dataset)
    check_results = examine(context)
    if has_failed(check_results):
        failed = [check_result for check_result in check_results if check_result.level != "pass"]
        shown = "\n".join(f"  {line}" for line in lines(failed))
        raise UserError(
            f"{spec.stage} does not start ({summary(check_results)}):\n{shown}\n  {SKIP}=1 starts it all the same"
        )
    start_logging(spec.work.log, main_process=True)
    log.info("%s", summary(check_results))
    for line in lines([check_result for check_result in check_results if check_result.level == "warn"]):
        log.warning("%s", line)
