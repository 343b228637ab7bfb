"""A bound on whole exchanges with a tracking server.

MLflow's timeouts, like every socket's, are for one receive: a server that sends a byte a second is never too slow for
them. A thread watches the clock and interrupts the main thread, which then goes on as after any failure; where that
cannot be interrupted (it waits for a library's threads) it ends the process, whose journals and positions on disk are
all that it has.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from taehv.tracking.store import SlowStoreError, is_server, tracking_uri

EXCHANGE_SECONDS = 60.0
"""For what one event needs, beyond its files."""
BYTES_PER_SECOND = 50_000
"""Slower than this no file need arrive."""
GRACE_SECONDS = 20.0
"""From the interruption to the end of the process."""
SIGNAL = signal.SIGUSR2
KEPT = "what has not arrived is kept, taehv track sync sends it"


@contextmanager
def exchange(size: int = 0) -> Iterator[None]:
    """Around what is one exchange with the store, with so many bytes of files; in the main thread.

    A database is not bounded: MLflow asks it through its driver, which has limits of its own, and the making of its
    tables must not be interrupted.

    Raises:
        SlowStoreError: a server took longer. A client library may make an error of its own of it.
    """
    if not is_server(tracking_uri()):
        yield
        return
    seconds, over, main = EXCHANGE_SECONDS + size / BYTES_PER_SECOND, threading.Event(), threading.get_ident()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if not over.is_set():
            raise SlowStoreError(f"no whole answer within {seconds:.0f} s")

    def watch() -> None:
        if over.wait(seconds):
            return
        signal.pthread_kill(main, SIGNAL)
        if not over.wait(GRACE_SECONDS):
            print(f"error: the tracking store gave no whole answer within {seconds:.0f} s; {KEPT}", file=sys.stderr)
            sys.stderr.flush()
            os._exit(1)

    before, watcher = signal.signal(SIGNAL, interrupt), threading.Thread(target=watch, daemon=True)
    try:
        try:
            watcher.start()
            yield
        finally:
            over.set()
    finally:
        over.set()  # the interruption may have come just before the first
        watcher.join()
        signal.signal(SIGNAL, before)
