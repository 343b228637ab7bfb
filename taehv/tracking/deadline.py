"""A bound on whole answers of a tracking server.

A socket's timeout, which urllib and requests take, bounds each receive and not the answer: a server that sends a byte a
second never runs into it, and whoever asked waits for hours.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar, cast

Answer = TypeVar("Answer")


def within(seconds: float, call: Callable[[], Answer]) -> Answer:
    """What ``call`` returns or raises, if it comes in time.

    Otherwise the call goes on in a thread that does not keep the program from ending, and nobody listens to it.

    Raises:
        TimeoutError: it did not come in time.
    """
    answers: queue.SimpleQueue[tuple[Answer | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no whole answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return cast(Answer, answer)
