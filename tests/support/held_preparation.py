"""The stage prepare_data, whose workers hang over their first video; everything else is the real stage.

    python held_preparation.py

Each writes a file `hanging-<process id>` first.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


def hang(*_: Any, **__: Any) -> None:
    Path(f"hanging-{os.getpid()}").touch()
    time.sleep(600)


if __name__ == "__main__":
    from stages import prepare_data
    from stages.entry import run_stage
    from taehv.data import prepare

    vars(prepare)["inspect_video"] = hang
    run_stage(prepare_data.main)
