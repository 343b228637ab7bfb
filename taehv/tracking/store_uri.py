"""Where runs are recorded: MLFLOW_TRACKING_URI, or a sqlite file in the main repository. Nothing is connected here."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from taehv.runtime.errors import UserError
from taehv.runtime.paths import main_repository
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
DATABRICKS = ("databricks", "databricks-uc", "uc")
"""These alone are whole addresses, too."""
SCHEMES = ("http", "https", *DATABASES, *DATABRICKS)
TESTED = ("http", "https", "sqlite", "postgresql")
NOT_TESTED = "delivery at least once, not tested here"


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


def is_database(uri: str) -> bool:
    """Whether MLflow works on the database itself, without a server that has a place for artifacts."""
    return urlsplit(uri).scheme.split("+")[0] in DATABASES
