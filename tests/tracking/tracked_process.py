"""A process that tracks: logs some steps, says so, and then waits to be killed, or ends.

python tracked_process.py JOURNAL FIRST_STEP LAST_STEP [wait]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from taehv.params import load_params
from taehv.profiles import load_profile
from taehv.tracking import stage_run

REPOSITORY = Path(__file__).parents[2]


def main() -> None:
    journal, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    params = load_params(REPOSITORY / "params.yaml")
    profile = load_profile("local", REPOSITORY / "profiles")
    with stage_run("a800_test", params, profile, journal=journal) as run:
        for step in range(first, last + 1):
            run.metrics(step, {"train/loss": 1.0 / step})
        print("logged", run.run_id, flush=True)
        if "wait" in sys.argv:
            time.sleep(600)


if __name__ == "__main__":
    main()
