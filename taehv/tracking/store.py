"""The tracking store, connected: in which experiment runs are recorded, and what a person is told where it fails."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock

from taehv.runtime.errors import is_disk_full
from taehv.runtime.paths import main_repository
from taehv.tracking.secrets import without_secrets
from taehv.tracking.store_location import check_place
from taehv.tracking.store_uri import StoreError, artifact_root, check_uri, is_database, tracking_uri
from taehv.tracking.watchdog import SlowStoreError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

DEFAULT_EXPERIMENT = "taehv"
"""Unless MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID names another one."""
CONNECT_SECONDS = 5.0


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
