"""A bound on whole answers of a tracking server.

A socket's timeout, which urllib and requests take, bounds each receive and not the answer: a server that sends a byte a
second never runs into it, and whoever asked waits for hours.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

Answer = TypeVar("Answer")

TIMES_TIMEOUT = 2
"""For a whole answer, in multiples of the timeout for its next byte."""


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


@functools.cache
def bound_answers_to_mlflow() -> None:
    """From here on MLflow's client gives a whole answer ``TIMES_TIMEOUT`` times MLFLOW_HTTP_REQUEST_TIMEOUT.

    Files on their way up or down take as long as they take: they are streams. MLflow has no setting for this, and makes
    its sessions itself, so it is done where all of them ask.
    """
    import requests

    ask: Callable[..., requests.Response] = requests.Session.request

    @functools.wraps(ask)
    def bounded(session: requests.Session, *args: Any, **kwargs: Any) -> requests.Response:
        timeout, data = kwargs.get("timeout"), kwargs.get("data")
        is_stream = bool(kwargs.get("stream")) or not isinstance(data, str | bytes | dict | None)
        if is_stream or not isinstance(timeout, int | float):
            return ask(session, *args, **kwargs)
        try:
            return within(TIMES_TIMEOUT * timeout, lambda: ask(session, *args, **kwargs))
        except TimeoutError as error:
            raise requests.exceptions.ReadTimeout(str(error)) from error

    requests.Session.request = bounded  # type: ignore[method-assign,assignment]
