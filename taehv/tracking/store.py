"""Where runs are recorded: MLFLOW_TRACKING_URI, or a sqlite file in the main repository; and in which experiment."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from taehv.runtime.errors import UserError, is_disk_full
from taehv.runtime.paths import main_repository
from taehv.tracking.secrets import without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

# Before mlflow is imported, which reads them then. A dead server costs minutes per call with its own defaults; whoever
# calls retries.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# The database's migrations announce every step at INFO.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

SQLITE = "sqlite:///"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
DATABRICKS = ("databricks", "databricks-uc", "uc")
"""These alone are whole addresses, too."""
SCHEMES = ("http", "https", *DATABASES, *DATABRICKS)
TESTED = ("http", "https", "sqlite", "postgresql")
NOT_TESTED = "delivery at least once, not tested here"
DEFAULT_EXPERIMENT = "taehv"
"""Unless MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID names another one."""
CONNECT_SECONDS = 5.0


class StoreError(UserError):
    """The tracking store cannot be used."""


def tracking_uri() -> str:
    """The user's store, or `sqlite:///<main repository>/mlflow.db`.

    A relative sqlite path is one of the main repository: a DVC experiment runs in a folder that is deleted afterwards.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    file = database_file(uri)
    if file is None:
        return uri
    _, mark, options = uri.partition("?")
    return f"{_sqlite_uri(main_repository() / file)}{mark}{options}"


def database_file(uri: str) -> Path | None:
    """The file of a sqlite URI, as SQLAlchemy reads it; None for any other store.

    What follows a question mark are options, and %41 is an A. sqlite's own kind of URI (`file:...`) stays as it is.
    """
    scheme, separator, rest = uri.partition(":///")
    if scheme.split("+")[0] != "sqlite" or not separator or rest.startswith("file:"):
        return None
    return Path(unquote(rest.partition("?")[0]))


def _sqlite_uri(file: Path) -> str:
    """The URI whose file this is.

    MLflow makes the folder of `sqlite:///FILE` without decoding FILE, so where that matters the driver is named, too.
    """
    quoted = str(file).replace("%", "%25").replace("?", "%3F")
    return f"{SQLITE if quoted == str(file) else 'sqlite+pysqlite:///'}{quoted}"


def artifact_root() -> Path:
    """Where a database without a server keeps artifacts; frozen into the experiment when it is created.

    Beside a sqlite file: that one may outlive the checkout, which `mlflow run` of a git URI deletes.
    """
    file = database_file(tracking_uri())
    return (main_repository() if file is None else file.parent) / "mlartifacts"


def check_uri() -> None:
    """Look at the URI only; nothing is connected.

    Raises:
        StoreError: MLflow cannot use it, however long one waits.
    """
    uri = tracking_uri()
    try:
        parts = urlsplit(uri)
        _ = parts.port  # read only when asked for
    except ValueError:
        # Neither the URI nor Python's message is shown: with a "/" in it, a password counts as the port.
        raise StoreError(
            "MLFLOW_TRACKING_URI cannot be used: it is not an address like http://host:5000, with a whole-numbered "
            "port up to 65535 (in a password, percent-encode / as %2F)"
        ) from None
    known = (*SCHEMES, *plugin_schemes())
    if scheme_of(uri) not in known:
        raise StoreError(
            f"MLFLOW_TRACKING_URI={without_secrets(uri)} cannot be used: it must begin with one of "
            f"{', '.join(f'{name}:' for name in known)}. Without it runs go to mlflow.db of the main repository"
        )


def scheme_of(uri: str) -> str:
    """What comes before the colon, without a database's driver; `databricks` has no colon."""
    scheme, colon, _ = uri.partition(":")
    return scheme.split("+")[0] if colon or scheme in DATABRICKS else ""


def plugin_schemes() -> tuple[str, ...]:
    """The schemes of installed packages that teach MLflow another store."""
    return tuple(sorted({point.name for point in importlib.metadata.entry_points(group="mlflow.tracking_store")}))


def open_store(experiment: str | None = None) -> str:
    """Connect, create the experiment if it is not there, and return its id.

    Args:
        experiment: its name; None is that of MLFLOW_EXPERIMENT_NAME, or the one of MLFLOW_EXPERIMENT_ID, or `taehv`.

    Raises:
        StoreError: the URI is not one that MLflow can use, the store's files belong to another checkout, or the
            experiment is deleted, or has no such id.
        OSError: a server does not answer.
        sqlite3.Error: the database cannot be read.
        mlflow.exceptions.MlflowException: the store answers, but not as it should.
    """
    import mlflow

    from taehv.tracking.store_location import check_place

    check_uri()
    check_place()
    uri = tracking_uri()
    _check_server_answers(uri)
    mlflow.set_tracking_uri(uri)
    name = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or ""
    if not is_database(uri):
        return _experiment_id(mlflow.MlflowClient(uri), name, artifact_location=None)
    # The first client creates the database's tables; two processes that do so at once would race.
    main_repository().mkdir(parents=True, exist_ok=True)
    with FileLock(main_repository() / "mlflow.db.lock"):
        return _experiment_id(mlflow.MlflowClient(uri), name, artifact_location=artifact_root().as_uri())


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """Around what a person asked of the store: what goes wrong there is said in one line.

    Raises:
        StoreError: the store does not answer, or refuses, or a file cannot be read or written.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    from taehv.tracking.watchdog import SlowStoreError

    try:
        yield
    # MLflow lets through what a database's driver says, or that there is no driver.
    except (OSError, MlflowException, SQLAlchemyError, sqlite3.Error, ImportError, SlowStoreError) as error:
        if is_disk_full(error):
            raise
        if isinstance(error, OSError) and error.filename is not None:
            raise StoreError(f"{error.filename}: {error.strerror}") from error
        said = (without_secrets(str(error)).splitlines() or [type(error).__name__])[0]
        raise StoreError(
            f"{without_secrets(tracking_uri())} does not work: {said}. Start the server or fix MLFLOW_TRACKING_URI, "
            "and run the same command again"
        ) from error


def is_database(uri: str) -> bool:
    """Whether MLflow works on the database itself, without a server that has a place for artifacts."""
    return urlsplit(uri).scheme.split("+")[0] in DATABASES


def _experiment_id(client: MlflowClient, name: str, artifact_location: str | None) -> str:
    """Of the experiment of this name, or where it is empty, the one that the environment chooses."""
    from mlflow.exceptions import MlflowException

    chosen = None if name else _named_by_id(client)
    name = name or DEFAULT_EXPERIMENT
    existing = chosen or client.get_experiment_by_name(name)
    if existing is not None:
        return _usable(existing)
    try:
        return str(client.create_experiment(name, artifact_location=artifact_location))
    except MlflowException:
        # Another machine may have created it on the same server in between.
        created = client.get_experiment_by_name(name)
        if created is None:
            raise
        return str(created.experiment_id)


def _named_by_id(client: MlflowClient) -> Experiment | None:
    """The experiment of MLFLOW_EXPERIMENT_ID; None where it is not set."""
    from mlflow.exceptions import MlflowException

    chosen = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if not chosen:
        return None
    try:
        return client.get_experiment(chosen)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"):
            raise
        raise StoreError(
            f"MLFLOW_EXPERIMENT_ID={chosen}: {without_secrets(tracking_uri())} has no such experiment; "
            "mlflow experiments search lists them. Set it to one of these, or unset it"
        ) from error


def _usable(experiment: Experiment) -> str:
    """Its id; a deleted one takes no runs."""
    number, name = str(experiment.experiment_id), experiment.name
    if experiment.lifecycle_stage == "deleted":
        raise StoreError(
            f"the experiment {name!r} of {without_secrets(tracking_uri())} is deleted: restore it with "
            f"mlflow experiments restore --experiment-id {number} (and MLFLOW_TRACKING_URI set to that store), or name "
            "another with MLFLOW_EXPERIMENT_NAME"
        )
    return number


def _check_server_answers(uri: str) -> None:
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with socket.create_connection((parts.hostname or "localhost", port), timeout=CONNECT_SECONDS):
        pass
