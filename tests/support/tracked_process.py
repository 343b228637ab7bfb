"""A process that tracks: logs some steps, says so, and then waits to be killed, or ends.

python tracked_process.py FOLDER FIRST_STEP LAST_STEP [wait | until FILE | fail ...]
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path

from taehv.config.params import load_params
from taehv.config.profiles import load_profile
from taehv.runtime.errors import UserError
from taehv.tracking.run import stage_run

REPOSITORY = Path(__file__).parents[2]


def main() -> None:
    folder, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    how, *more = sys.argv[4:] or ["end"]
    params = load_params(REPOSITORY / "params.yaml")
    profile = load_profile("local", REPOSITORY / "profiles")
    # A stage's own error is printed by whoever started it, not by tracking.
    with contextlib.suppress(UserError), stage_run("a800_test", params, profile, folder=folder) as run:
        step, parent = first, os.getppid()
        while step <= last:
            run.metrics(step, {"train/loss": 1.0 / step, "val/psnr": 20.0 + step})
            for number, video in enumerate(json.loads(os.environ.get("TRACKED_PROCESS_VIDEOS", "[]"))):
                run.metrics(step, {f"val/psnr/{video}": float(step + number)})
            step += 1
            waiting = how == "until" and not Path(more[0]).exists() and os.getppid() == parent
            if waiting and step == last + 1:
                last += 1
                time.sleep(0.02)
        print("logged", step - 1, flush=True)
        if "TRACKED_PROCESS_MODEL" in os.environ:
            run.model(Path(os.environ["TRACKED_PROCESS_MODEL"]), metrics={"step": last, "psnr_db": 20.0 + last})
        if how == "fail":
            uri = os.environ["MLFLOW_TRACKING_URI"]
            run.artifact(Path(__file__))
            run.tags({"said": os.environ.get("TRACKED_PROCESS_SAYS", "nothing")})
            raise UserError(f"cannot reach {uri}")
        if how == "wait":
            time.sleep(600)


if __name__ == "__main__":
    main()
