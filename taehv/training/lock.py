"""One trainer per work folder. The operating system drops the lock when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import lock_descriptor

from taehv.runtime.errors import UserError

LOCK = "lock"


@contextlib.contextmanager
def work_lock(folder: Path) -> Iterator[str | None]:
    """Hold the folder for this process.

    The file names its holder while there is one. A name in a file that nobody holds is that of a process which was
    killed: the lock is taken over.

    Yields:
        The holder whose lock was taken over; None if there was none.

    Raises:
        UserError: another process holds it; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        if not lock_descriptor(file.fileno(), blocking=False):
            holder = _holder(file.name) or "another process"
            raise UserError(f"{holder} is already training in {folder}; wait for it, or stop it and run again")
        left_behind = _holder(file.name)
        _name_holder(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}")
        try:
            yield left_behind or None
        finally:
            _name_holder(file.fileno(), "")


def _holder(file: str) -> str:
    return Path(file).read_text(encoding="utf-8").strip()


def _name_holder(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, text.encode())
