"""Where runs are recorded: MLFLOW_TRACKING_URI, or a sqlite file in the main repository; connecting to it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock

from taehv.runtime import paths
from taehv.runtime.errors import UserError, is_disk_full
from taehv.runtime.paths import main_repository
from taehv.tracking.secrets import without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Before mlflow is imported, which reads them then. A dead server costs minutes per call with its own defaults; whoever
# calls retries.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# The database's migrations announce every step at INFO.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

SERVERS = ("http", "https")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
DATABRICKS = ("databricks", "databricks-uc", "uc")
"""These alone are whole addresses, too."""
TESTED = (*SERVERS, "sqlite", "postgresql")

DEFAULT_EXPERIMENT = "taehv"
"""Unless MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID names another one."""
SECONDS = 5.0
"""For a server to take a connection, and for a sqlite file to be unlocked, where it is only looked at."""


class StoreError(UserError):
    """The tracking store cannot be used."""


class SlowStoreError(Exception):
    """A server did not give a whole answer in time."""


def tracking_uri() -> str:
    """The user's store, or `sqlite:///<main repository>/mlflow.db`.

    A relative sqlite path is one of the main repository: a DVC experiment runs in a folder that is deleted afterwards.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    file = database_file(uri)
    if file is None:
        return uri
    _, mark, options = uri.partition("?")
    return f"{sqlite_uri(main_repository() / file)}{mark}{options}"


def database_file(uri: str) -> Path | None:
    """The file of a sqlite URI, as SQLAlchemy reads it; None for any other store.

    What follows a question mark are options, and %41 is an A. sqlite's own kind of URI (`file:...`) stays as it is.
    """
    _, separator, rest = uri.partition(":///")
    if scheme_of(uri) != "sqlite" or not separator or rest.startswith("file:"):
        return None
    return Path(unquote(rest.partition("?")[0]))


def sqlite_uri(file: Path) -> str:
    """The URI whose file this is.

    MLflow makes the folder of `sqlite:///FILE` without decoding FILE, so where that matters the driver is named, too.
    """
    quoted = str(file).replace("%", "%25").replace("?", "%3F")
    return f"{'sqlite' if quoted == str(file) else 'sqlite+pysqlite'}:///{quoted}"


def scheme_of(uri: str) -> str:
    """What comes before the colon, without a database's driver; `databricks` has no colon."""
    scheme, colon, _ = uri.partition(":")
    return scheme.split("+")[0] if colon or scheme in DATABRICKS else ""


def is_server(uri: str) -> bool:
    """Whether it is asked over HTTP, where anything may answer."""
    return scheme_of(uri) in SERVERS


def is_database(uri: str) -> bool:
    """Whether MLflow works on the database itself, without a server that has a place for artifacts."""
    return scheme_of(uri) in DATABASES


def artifact_root() -> Path:
    """Where a database without a server keeps artifacts; frozen into the experiment when it is created.

    Beside a sqlite file: that one may outlive the checkout, which `mlflow run` of a git URI deletes.
    """
    file = database_file(tracking_uri())
    return (main_repository() if file is None else file.parent) / "mlartifacts"


def local_artifacts() -> Path | None:
    """Where artifacts go on this machine; None where a server keeps them."""
    return artifact_root() if is_database(tracking_uri()) else None


def check_uri() -> None:
    """Look at the URI only; nothing is connected.

    Raises:
        StoreError: MLflow cannot use it, however long one waits.
    """
    uri = tracking_uri()
    try:
        _ = urlsplit(uri).port  # read only when asked for
    except ValueError:
        # Neither the URI nor Python's message is shown: with a "/" in it, a password counts as the port.
        raise StoreError(
            "MLFLOW_TRACKING_URI cannot be used: it is not an address like http://host:5000, with a whole-numbered "
            "port up to 65535 (in a password, percent-encode / as %2F)"
        ) from None
    plugins = {point.name for point in importlib.metadata.entry_points(group="mlflow.tracking_store")}
    known = (*SERVERS, *DATABASES, *DATABRICKS, *sorted(plugins))
    if scheme_of(uri) not in known:
        raise StoreError(
            f"MLFLOW_TRACKING_URI={without_secrets(uri)} cannot be used: it must begin with one of "
            f"{', '.join(f'{name}:' for name in known)}. Without it runs go to mlflow.db of the main repository"
        )


def check_place() -> None:
    """Look where the store's runs keep their files; nothing is written.

    MLflow writes absolute places into experiments, runs, models and versions. A checkout that is moved or copied takes
    its `mlflow.db` along, whose runs would go on writing into the folder where it was before.

    Raises:
        StoreError: in another checkout.
        sqlite3.Error: the database cannot be read now.
    """
    home = home_of_files()
    if home is not None:
        raise StoreError(
            f"this checkout is {main_repository()}, but its tracking store was made in {home} and keeps its files in "
            f"{home / artifact_root().name}: it was moved or copied. Run: taehv track relocate. It makes a store of "
            "the same runs with its files here; nothing is written to the old place"
        )


def home_of_files() -> Path | None:
    """The other checkout where this store's runs keep their files; None where that is this one.

    A folder that someone chose for an experiment, on a larger disk say, is no checkout.

    Raises:
        sqlite3.Error: the database cannot be read now.
    """
    database = database_file(tracking_uri())
    if database is None or not database.exists():
        return None
    address = f"file:{quote(str(database))}?mode=rw"
    with contextlib.closing(sqlite3.connect(address, uri=True, timeout=SECONDS)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchall():
            return None  # another process is making the tables
        active = "SELECT artifact_location FROM experiments WHERE lifecycle_stage = 'active'"
        folders = [local_folder(row[0] or "") for row in connection.execute(active)]
    homes = [folder.parent for folder in folders if folder is not None and folder.name == artifact_root().name]
    return next((home for home in homes if _is_elsewhere(home, database)), None)


def local_folder(location: str) -> Path | None:
    """An artifact location as a folder of this machine; None for any other."""
    parts = urlsplit(location)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost") or not parts.path:
        return None
    return Path(unquote(parts.path) if parts.scheme else location)


def _is_elsewhere(home: Path, database: Path) -> bool:
    root = main_repository()
    if home.resolve() in (root, database.resolve().parent):
        return False
    if not home.exists():
        return True
    # A database elsewhere may be shared on purpose; the one in this checkout is this checkout's.
    is_checkout = (home / paths.DVC_YAML).exists() or (home / database.name).exists()
    return is_checkout and database.resolve().is_relative_to(root)


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
    if is_server(uri):
        # MLflow would wait longer, and say it in more words.
        parts = urlsplit(uri)
        address = (parts.hostname or "localhost", parts.port or (443 if parts.scheme == "https" else 80))
        socket.create_connection(address, timeout=SECONDS).close()
    mlflow.set_tracking_uri(uri)
    if not is_database(uri):
        return _experiment_id(mlflow.MlflowClient(uri), experiment, artifact_location=None)
    # The first client creates the database's tables; two processes that do so at once would race.
    main_repository().mkdir(parents=True, exist_ok=True)
    with FileLock(main_repository() / "mlflow.db.lock"):
        return _experiment_id(mlflow.MlflowClient(uri), experiment, artifact_location=artifact_root().as_uri())


def _experiment_id(client: MlflowClient, wanted: str | None, artifact_location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    name = wanted or os.environ.get("MLFLOW_EXPERIMENT_NAME") or ""
    number = None if name else os.environ.get("MLFLOW_EXPERIMENT_ID")
    name = name or DEFAULT_EXPERIMENT
    try:
        found = client.get_experiment(number) if number else client.get_experiment_by_name(name)
    except MlflowException as error:
        if not number or error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"):
            raise
        raise StoreError(
            f"MLFLOW_EXPERIMENT_ID={number}: {without_secrets(tracking_uri())} has no such experiment; "
            "mlflow experiments search lists them. Set it to one of these, or unset it"
        ) from error
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_location))
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:  # else another machine has created it on the same server in between
                raise
    if found.lifecycle_stage == "deleted":
        raise StoreError(
            f"the experiment {found.name!r} of {without_secrets(tracking_uri())} is deleted: restore it with mlflow "
            f"experiments restore --experiment-id {found.experiment_id} (and MLFLOW_TRACKING_URI set to that store), "
            "or name another with MLFLOW_EXPERIMENT_NAME"
        )
    return str(found.experiment_id)


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
