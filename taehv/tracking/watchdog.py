"""A bound on whole exchanges with a tracking server.

MLflow's timeouts, like every socket's, are for one receive: a server that sends a byte a second is never too slow for
them. A thread watches the clock and interrupts the main thread, which then goes on as after any failure; where that
cannot be interrupted (it waits in C, or for a library's threads) it ends the process, whose journals and positions on
disk are all that it has.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType

from taehv.tracking.store_uri import tracking_uri

EXCHANGE_SECONDS = 60.0
"""For what one event needs, beyond its files."""
BYTES_PER_SECOND = 50_000
"""Slower than this no file need arrive."""
GRACE_SECONDS = 20.0
"""From the interruption to the end of the process."""
EXIT_STUCK = 1
SIGNAL = signal.SIGUSR2


class SlowStoreError(Exception):
    """The store did not give a whole answer in time."""


def exchange(size: int = 0) -> AbstractContextManager[None]:
    """Around what is one exchange with the store, with so many bytes of files; in the main thread.

    A database is not bounded: MLflow asks it through its driver, which has limits of its own, and the making of its
    tables must not be interrupted.

    Raises:
        SlowStoreError: a server took longer. A client library may make an error of its own of it.
    """
    if not tracking_uri().startswith("http"):
        return nullcontext()
    return bounded(EXCHANGE_SECONDS + size / BYTES_PER_SECOND)


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """See ``exchange``."""
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(over, seconds), daemon=True)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if not over.is_set():
            raise SlowStoreError(f"no whole answer within {seconds:.0f} s")

    before = signal.signal(SIGNAL, interrupt)
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


def _watch(over: threading.Event, seconds: float) -> None:
    if over.wait(seconds):
        return
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, SIGNAL)
    if not over.wait(GRACE_SECONDS):
        print(
            f"error: the tracking store gave no whole answer within {seconds:.0f} s; what has not arrived is kept, "
            "taehv track sync sends it",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_STUCK)


def was_too_slow(error: BaseException | None) -> bool:
    """Whether ``SlowStoreError`` is what a client library made this error of."""
    while error is not None and not isinstance(error, SlowStoreError):
        error = error.__cause__ or error.__context__
    return error is not None
