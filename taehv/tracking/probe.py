"""Whether the tracking store can be reached and written, found out without leaving a trace in it."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import os
import queue
import sqlite3
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

from taehv.tracking.secrets import without_secrets
from taehv.tracking.store import open_store
from taehv.tracking.store_uri import (
    NOT_TESTED,
    TESTED,
    StoreError,
    artifact_root,
    check_uri,
    database_file,
    is_database,
    scheme_of,
    tracking_uri,
)

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


REQUEST_SECONDS = 3
"""For one answer of a server, from the question to its last byte; the first that takes longer ends the probe."""
PROBE_SECONDS = 30
"""For all that MLflow asks and writes; a slow database needs a few, a new one makes its tables meanwhile."""
NOT_YET = "will be created by the first stage"


class DateError(ValueError):
    """A server answers with a date that is none. The message says which."""


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


def probe_store() -> Probe:
    """Set a tag on the experiment and take it away again; a store that does not exist yet is not created for that."""
    uri = tracking_uri()
    shown, started = without_secrets(uri), time.monotonic()
    what = "written and restored"
    try:
        with _impatient():
            check_uri()
            database = database_file(uri)
            if database is not None and not database.exists():
                _write_beside(database.parent)
                what = NOT_YET
            else:
                import mlflow  # noqa: F401  # takes seconds, which are not the store's

                within(PROBE_SECONDS, lambda: _write_and_remove_tag(uri, open_store()))
            artifacts = local_artifacts()
            if artifacts is not None:
                _write_beside(artifacts)
    except StoreError as error:
        return Probe(shown, time.monotonic() - started, what, unusable=str(error))
    except Exception as error:  # MLflow raises whatever its database driver or HTTP client does
        return Probe(shown, time.monotonic() - started, what, dead=f"{type(error).__name__}: {_first_line(error)}")
    ahead = None
    try:
        ahead = server_ahead(uri)
    except DateError as error:
        what = f"{what}; {error}"
    return Probe(shown, time.monotonic() - started, what, server_ahead_s=ahead, untested=_untested(uri))


def reach_store() -> Probe:
    """Whether the store answers at all, in a moment and without MLflow, whose import alone takes seconds."""
    uri = tracking_uri()
    shown, started = without_secrets(uri), time.monotonic()
    dead, ahead, what = None, None, "not tried: neither a server nor a database file"
    database = database_file(uri)
    try:
        check_uri()
    except StoreError as error:
        return Probe(shown, time.monotonic() - started, what, unusable=str(error))
    if _is_server(uri):
        what = "answers"
        try:
            ahead = ask_date(uri)
        except DateError as error:
            what = f"answers; {error}"
        except OSError as error:
            dead = f"{type(error).__name__}: {_first_line(error)}"
    elif database is not None and not database.exists():
        what = NOT_YET
    elif database is not None:
        what = "can be written"
        try:
            _take_write_lock(database)
        except sqlite3.Error as error:
            dead = f"{type(error).__name__}: {_first_line(error)}"
    return Probe(shown, time.monotonic() - started, what, dead=dead, server_ahead_s=ahead, untested=_untested(uri))


def _untested(uri: str) -> str | None:
    return None if scheme_of(uri) in TESTED else NOT_TESTED


def _take_write_lock(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database, timeout=REQUEST_SECONDS)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()


def local_artifacts() -> Path | None:
    """Where artifacts go on this machine; None where a server keeps them."""
    return artifact_root() if is_database(tracking_uri()) else None


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """One short try for each request: MLflow reads these settings at every call."""
    settings = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(REQUEST_SECONDS), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _write_and_remove_tag(uri: str, experiment_id: str) -> None:
    from mlflow import MlflowClient

    client, tag = MlflowClient(uri), f"taehv.doctor.{os.getpid()}.{time.time_ns()}"
    client.set_experiment_tag(experiment_id, tag, "written by taehv doctor, and taken away again")
    client.delete_experiment_tag(experiment_id, tag)


def _first_line(error: Exception) -> str:
    lines = without_secrets(str(error)).splitlines() or [""]
    return lines[0][:300]


def _is_server(uri: str) -> bool:
    return urlsplit(uri).scheme in ("http", "https")


def _write_beside(folder: Path) -> None:
    """Write and delete a file in the folder, or in the nearest one above it that exists."""
    while not folder.exists():
        folder = folder.parent
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".taehv-doctor-") as file:
        file.write(b"taehv doctor")
        file.flush()
        os.fsync(file.fileno())


def server_ahead(uri: str) -> float | None:
    """A server's clock minus ours, in seconds; None where there is no server, or no answer.

    Raises:
        DateError: the answer's date cannot be read.
    """
    try:
        return ask_date(uri) if _is_server(uri) else None
    except OSError:
        return None


def ask_date(uri: str) -> float | None:
    """The same from the Date of any answer, also a refusal; None where it has none.

    Raises:
        OSError: there is no answer, or none in HTTP.
        DateError: its date cannot be read.
    """
    date = within(REQUEST_SECONDS, lambda: _date_of_answer(uri))
    return None if date is None else _seconds_since_1970(date) - time.time()


def _date_of_answer(uri: str) -> str | None:
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


def _seconds_since_1970(date: str) -> float:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise DateError(f"its clock cannot be compared, its Date is {date[:60]!r}") from error
