"""On PYTHONPATH of a process: the first that trains stops itself (SIGSTOP) as soon as it has a checkpoint.

Only the first: DVC's queue worker hands its environment to the experiments after it, too.
Python imports this module at its start. The process watches itself, so that nothing depends on who is how fast.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path


def stop_at_first_checkpoint(root: Path) -> None:
    while not any(root.glob(".work/a800_test/*/rolling/step-*")):
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGSTOP)


main_repository = Path(os.environ["SELF_HOLDING_ROOT"])
already_held = main_repository / ".dvc/tmp/already-held"
if "stages.a800_test" in sys.orig_argv and not already_held.exists():
    already_held.touch()
    threading.Thread(target=stop_at_first_checkpoint, args=(main_repository,), daemon=True).start()
