"""Whether the store on this disk still keeps its files where this checkout is.

MLflow writes absolute places into experiments, runs, models and versions. A checkout that is moved or copied takes its
`mlflow.db` along, whose runs would go on writing into the folder where it was before: another checkout's, or one that
nobody looks into any more.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from taehv.runtime import paths
from taehv.runtime.paths import main_repository
from taehv.tracking.store_uri import StoreError, artifact_root, database_file, tracking_uri

BUSY_SECONDS = 5.0


def check_place() -> None:
    """Look where the store's runs keep their files; nothing is written.

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
    with contextlib.closing(sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS)) as connection:
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
