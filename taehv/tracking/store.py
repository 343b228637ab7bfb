"""Where runs are recorded: MLFLOW_TRACKING_URI, or a sqlite file in the main repository."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from taehv.errors import UserError, is_disk_full
from taehv.paths import main_repository
from taehv.tracking.secrets import without_secrets

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
SCHEMES = ("http", "https", *DATABASES, "databricks", "databricks-uc")
DEFAULT_EXPERIMENT = "taehv"
"""Unless MLFLOW_EXPERIMENT_NAME names another one."""
CONNECT_SECONDS = 5.0


class StoreError(UserError):
    """The tracking store cannot be used."""


def tracking_uri() -> str:
    """The user's store, or `sqlite:///<main repository>/mlflow.db`.

    A relative sqlite path is one of the main repository: a DVC experiment runs in a folder that is deleted afterwards.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    if uri.startswith(SQLITE):
        return f"{SQLITE}{main_repository() / uri.removeprefix(SQLITE)}"
    return uri


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
    if parts.scheme.split("+")[0] not in SCHEMES:
        raise StoreError(
            f"MLFLOW_TRACKING_URI={without_secrets(uri)} cannot be used: it must begin with one of "
            f"{', '.join(f'{known}:' for known in SCHEMES)}. Without it runs go to mlflow.db of the main repository"
        )


def open_store(experiment: str | None = None) -> str:
    """Connect, create the experiment if it is not there, and return its id.

    Args:
        experiment: its name; None is MLFLOW_EXPERIMENT_NAME, or `taehv`.

    Raises:
        StoreError: the URI is not one that MLflow can use, or the store's files belong to another checkout.
        OSError: a server does not answer.
        sqlite3.Error: the database cannot be read.
        mlflow.exceptions.MlflowException: the store answers, but not as it should.
    """
    import mlflow

    from taehv.tracking.place import check_place

    check_uri()
    check_place()
    uri = tracking_uri()
    _check_server_answers(uri)
    mlflow.set_tracking_uri(uri)
    name = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
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
            f"{without_secrets(tracking_uri())} does not work: {said}. Start the server or mend MLFLOW_TRACKING_URI, "
            "and run the same command again"
        ) from error


def is_database(uri: str) -> bool:
    """Whether MLflow works on the database itself, without a server that has a place for artifacts."""
    return urlsplit(uri).scheme.split("+")[0] in DATABASES


def _experiment_id(client: object, name: str, artifact_location: str | None) -> str:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    assert isinstance(client, MlflowClient)
    existing = client.get_experiment_by_name(name)
    if existing is not None:
        return str(existing.experiment_id)
    try:
        return str(client.create_experiment(name, artifact_location=artifact_location))
    except MlflowException:
        # Another machine may have created it on the same server in between.
        created = client.get_experiment_by_name(name)
        if created is None:
            raise
        return str(created.experiment_id)


def _check_server_answers(uri: str) -> None:
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with socket.create_connection((parts.hostname or "localhost", port), timeout=CONNECT_SECONDS):
        pass


def database_file(uri: str) -> Path | None:
    """The file of a sqlite URI, as SQLAlchemy reads it; None for any other store.

    What follows a question mark are options, and %41 is an A. sqlite's own kind of URI (`file:...`) stays as it is.
    """
    scheme, separator, rest = uri.partition(":///")
    if scheme.split("+")[0] != "sqlite" or not separator or rest.startswith("file:"):
        return None
    return Path(unquote(rest.partition("?")[0]))
