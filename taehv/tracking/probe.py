"""Whether the tracking store can be reached and written, found out without leaving a trace in it."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import os
import sqlite3
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from taehv.tracking.secrets import without_secrets
from taehv.tracking.store import (
    TESTED,
    StoreError,
    check_uri,
    database_file,
    is_server,
    local_artifacts,
    open_store,
    scheme_of,
    tracking_uri,
)

Answer = TypeVar("Answer")

REQUEST_SECONDS = 3
"""For a server's answer, from the question to the end of its head, or for a sqlite file to be unlocked."""
PROBE_SECONDS = 30
"""For all that MLflow asks and writes; a slow database needs a few, a new one makes its tables meanwhile."""
NOT_YET = "will be created by the first stage"
NOT_TESTED = "delivery at least once, not tested here"


@dataclass(frozen=True)
class Probe:
    """What the store answered. At most one of ``unusable`` and ``dead`` is set."""

    uri: str
    """Without its password."""
    seconds: float
    what: str
    """What was done."""
    unusable: str | None = None
    """Why no run can ever be recorded there: the URI or the database is not one that this MLflow can use."""
    dead: str | None = None
    """Why it does not answer, or does not let us write."""
    server_ahead_s: float | None = None
    """The server's clock minus ours, in seconds, to one second; None without a server that says."""
    untested: str | None = None
    """What to know about a kind of store that the project was never tested with."""


def reach_store() -> Probe:
    """Whether the store answers at all, in a moment and without MLflow, whose import alone takes seconds."""
    return _probe(_reach)


def probe_store() -> Probe:
    """Set a tag on the experiment and take it away again; a store that does not exist yet is not created for that."""
    return _probe(_write)


def _probe(look: Callable[[str], tuple[str, float | None]]) -> Probe:
    uri = tracking_uri()
    shown, started = without_secrets(uri), time.monotonic()
    what, ahead, unusable, dead = "nothing", None, None, None
    try:
        check_uri()
        what, ahead = look(uri)
    except StoreError as error:
        unusable = str(error)
    except Exception as error:  # MLflow raises whatever its database driver or HTTP client does
        lines = without_secrets(str(error)).splitlines() or [""]
        dead = f"{type(error).__name__}: {lines[0][:300]}"
    untested = None if scheme_of(uri) in TESTED else NOT_TESTED
    return Probe(shown, time.monotonic() - started, what, unusable, dead, ahead, untested)


def _reach(uri: str) -> tuple[str, float | None]:
    """What was done, and the server's clock minus ours."""
    database = database_file(uri)
    if is_server(uri):
        date = within(REQUEST_SECONDS, lambda: _date_of_answer(uri))
        try:
            return "answers", None if date is None else email.utils.parsedate_to_datetime(
                date
            ).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, OSError):
            return f"answers; its clock cannot be compared, its Date is {(date or '')[:60]!r}", None
    if database is None:
        return "not tried: neither a server nor a database file", None
    if not database.exists():
        return NOT_YET, None
    with contextlib.closing(sqlite3.connect(database, timeout=REQUEST_SECONDS)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
    return "can be written", None


def _write(uri: str) -> tuple[str, float | None]:
    what, ahead = _reach(uri)
    database = database_file(uri)
    if database is not None and not database.exists():
        _write_beside(database.parent)
    else:
        import mlflow  # noqa: F401  # takes seconds, which are not the store's

        within(PROBE_SECONDS, lambda: _write_and_remove_tag(uri))
        what = f"written and restored{what.removeprefix('answers') if is_server(uri) else ''}"
    artifacts = local_artifacts()
    if artifacts is not None:
        _write_beside(artifacts)
    return what, ahead


def _write_and_remove_tag(uri: str) -> None:
    from mlflow import MlflowClient

    experiment_id = open_store()
    client, tag = MlflowClient(uri), f"taehv.doctor.{os.getpid()}.{time.time_ns()}"
    client.set_experiment_tag(experiment_id, tag, "written by taehv doctor, and taken away again")
    client.delete_experiment_tag(experiment_id, tag)


def _write_beside(folder: Path) -> None:
    """Write and delete a file in the folder, or in the nearest one above it that exists."""
    while not folder.exists():
        folder = folder.parent
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".taehv-doctor-") as file:
        file.write(b"taehv doctor")
        file.flush()
        os.fsync(file.fileno())


def _date_of_answer(uri: str) -> str | None:
    """The Date of any answer, also a refusal; None where it has none.

    Raises:
        OSError: there is no answer, or none in HTTP.
    """
    parts = urlsplit(uri)
    bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/") + "/health", "", ""))
    try:
        with urllib.request.urlopen(bare, timeout=REQUEST_SECONDS) as answer:
            date: str | None = answer.headers["Date"]
    except urllib.error.HTTPError as refusal:
        with refusal:
            date = refusal.headers["Date"]
    except (http.client.InvalidURL, UnicodeError) as error:
        raise ConnectionError(f"it is not an address that can be asked: {error}") from error
    except http.client.HTTPException as error:
        said = f"what answers there is no HTTP server ({type(error).__name__}: {error})"
        raise ConnectionError(said) from error
    return date


def within(seconds: float, call: Callable[[], Answer]) -> Answer:
    """What ``call`` returns or raises, if it comes in time.

    Otherwise the call goes on in a thread that does not keep the program from ending, and nobody listens to it.

    Raises:
        TimeoutError: it did not come in time.
    """
    answer: Future[Answer] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return answer.result(timeout=seconds)
    except TimeoutError:
        if answer.done():
            raise
        raise TimeoutError(f"no whole answer within {seconds:g} s") from None
