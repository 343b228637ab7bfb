"""All checks, in the order of the report."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from taehv.doctor.check import Check
from taehv.doctor.clock import check_clock
from taehv.doctor.context import RunContext
from taehv.doctor.disk import check_disk
from taehv.doctor.gpus import check_gpus
from taehv.doctor.machine_limits import check_machine_limits
from taehv.doctor.packages import check_packages
from taehv.doctor.prepared_data import check_gate, check_prepared_data
from taehv.doctor.process_group import check_process_group
from taehv.doctor.repository import check_repository
from taehv.doctor.settings import check_settings
from taehv.doctor.tracking_store import check_tracking_store
from taehv.tracking.secrets import without_secrets

BROKEN = "fix what the message names, or report it as an error of taehv doctor"

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
