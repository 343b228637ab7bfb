"""Whether MLflow can be reached and written, and whether the clock can be believed: it sorts runs by its times."""

from __future__ import annotations

import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from taehv.doctor.check import Check, Level
from taehv.doctor.context import RunContext

FIX = "start the server or fix MLFLOW_TRACKING_URI; without it the run goes on, and its journal keeps everything"
TOLERANCE_S = 60.0
STEP_TOLERANCE_S = 1.0
WATCHED_S = 0.05
LOCK_FILE = Path("requirements.lock")
SET_CLOCK = "set the clock, e.g. with: timedatectl set-ntp true"


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


def check_clock(context: RunContext) -> list[Check]:
    """Against the newest thing that is known to be past, the monotonic clock, and the tracking server."""
    ahead = context.probe.server_ahead_s
    return [judge_wall_clock(time.time(), _newest_known()), *_check_steps(), *judge_server_clock(ahead)]


def judge_wall_clock(now: float, newest: float | None) -> Check:
    """``now`` and the time of the newest commit or lock file, in seconds since 1970."""
    shown = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    if newest is not None and now < newest - TOLERANCE_S:
        late = f"{shown} is {newest - now:,.0f} s before the newest commit or lock file"
        return Check("clock", "warn", late, SET_CLOCK)
    return Check("clock", "pass", shown)


def judge_server_clock(ahead_s: float | None) -> list[Check]:
    """How far the server's clock is ahead of ours; None where there is no server or it does not say."""
    if ahead_s is None:
        return []
    if abs(ahead_s) > TOLERANCE_S:
        shown = f"differs from the MLflow server's by {abs(ahead_s):,.0f} s"
        return [Check("server clock", "warn", shown, f"{SET_CLOCK}, here or on the server")]
    return [Check("server clock", "pass", f"within {TOLERANCE_S:g} s of the MLflow server's")]


def _check_steps() -> list[Check]:
    """A clock that is being set while we look."""
    wall, steady = time.time(), time.monotonic()
    time.sleep(WATCHED_S)
    jumped = (time.time() - wall) - (time.monotonic() - steady)
    if abs(jumped) < STEP_TOLERANCE_S:
        return []
    return [Check("clock", "warn", f"jumped by {jumped:.1f} s while it was watched", SET_CLOCK)]


def _newest_known() -> float | None:
    known = [LOCK_FILE.stat().st_mtime] if LOCK_FILE.is_file() else []
    try:
        shown = subprocess.run(["git", "log", "-1", "--format=%ct"], check=True, capture_output=True, text=True).stdout
        known.append(float(shown))
    except (OSError, subprocess.CalledProcessError, ValueError):
        pass  # no git here, which the line about the repository says
    return max(known, default=None)
