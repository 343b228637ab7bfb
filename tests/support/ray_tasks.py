"""What the tests of Ray let its processes do; imported there, so that it imports little."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from taehv.data.workers import advance
from taehv.runtime.errors import UserError


def doubled(number: int, folder: Path) -> tuple[int, str]:
    for _ in range(number % 3):
        advance()
    with (folder / "calls").open("a") as calls:
        calls.write(f"{number}\n")
    return 2 * number, str(Path.cwd())


def dies_once(number: int, folder: Path) -> int:
    try:
        (folder / str(number)).touch(exist_ok=False)
    except FileExistsError:
        return number
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def always_dies(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fails(number: int) -> int:
    raise UserError(f"{number} is no video")


def slowly(number: int) -> int:
    time.sleep(0.2)
    return number
