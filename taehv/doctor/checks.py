"""All checks, in the order of the report: before a run, or in short at the start of a training stage."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable

from taehv.doctor.check import Check, has_failed, lines, summary
from taehv.doctor.context import RunContext
from taehv.doctor.disk import check_disk
from taehv.doctor.gpus import check_gpus
from taehv.doctor.machine_limits import check_machine_limits
from taehv.doctor.packages import check_packages
from taehv.doctor.prepared_data import check_gate, check_prepared_data
from taehv.doctor.process_group import check_process_group
from taehv.doctor.repository import check_repository
from taehv.doctor.settings import check_settings
from taehv.doctor.tracking_store import check_clock, check_tracking_store
from taehv.runtime.errors import UserError
from taehv.runtime.launched import launched_processes
from taehv.tracking.secrets import without_secrets
from taehv.training.console import start_logging
from taehv.training.run_spec import RunSpec

SKIP = "TAEHV_SKIP_DOCTOR"
"""Environment variable: 1 starts a stage without looking."""
BROKEN = "fix what the message names, or report it as an error of taehv doctor"

log = logging.getLogger("taehv.doctor")

CHECKS: tuple[Callable[[RunContext], list[Check]], ...] = (
    check_packages,
    check_repository,
    check_gpus,
    check_process_group,
    check_machine_limits,
    check_disk,
    check_prepared_data,
    check_gate,
    check_settings,
    check_tracking_store,
    check_clock,
)


def examine(context: RunContext) -> list[Check]:
    """Run all checks."""
    return [check_result for check in CHECKS for check_result in _run(check, context)]


def check_before_training(spec: RunSpec) -> None:
    """The quick part, silent about what is well; once, in the process that launches the others.

    Warnings go to train.log too.

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


def _run(check: Callable[[RunContext], list[Check]], context: RunContext) -> list[Check]:
    """What keeps a check from looking is a finding like any other.

    The system's refusal must not stop a run that could train. Any other error is one of the check itself: nobody knows
    then what it would have found.
    """
    name = check.__name__.removeprefix("check_").replace("_", " ")
    try:
        return check(context)
    except (OSError, subprocess.CalledProcessError) as error:
        return [Check(name, "warn", f"could not be checked: {error}", "fix what the message names, and look again")]
    except Exception as error:
        said = f"the check itself broke: {type(error).__name__}: {without_secrets(str(error))}"
        return [Check(name, "fail", said, BROKEN)]
