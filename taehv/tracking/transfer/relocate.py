"""The store of a checkout that was moved or copied: its runs, in a new store whose files are in this checkout.

The new store is made beside the old one and takes its place in one step. Until then nothing has changed; a relocation
that was interrupted is completed by the next one. Nothing is written to the place where the checkout was before.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from taehv.runtime.paths import main_repository
from taehv.tracking.journal import is_being_written
from taehv.tracking.send_state import TrackingFolder, send_state_if_readable, tracking_folders
from taehv.tracking.store import (
    StoreError,
    artifact_root,
    database_file,
    home_of_files,
    local_folder,
    open_store,
    sqlite_uri,
    tracking_uri,
)

BEFORE = ".before-relocate"
"""What the names of the old database and the old folder of files end with."""
UNDER_WAY = ".relocating"


class MovedFiles:
    """Where the files are now of which the store says that they are below another folder."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.found: list[Path] = []
        """The folders that were asked for and are in this checkout."""

    def __call__(self, location: str) -> Path | None:
        """The folder of a run's or model's files: in this checkout, or else where it was; None where it is in neither,
        or on no disk of this machine."""
        folder = local_folder(location)
        if folder is None:
            return None
        here = main_repository() / folder.relative_to(self._home) if folder.is_relative_to(self._home) else folder
        if here.is_dir():
            self.found.append(here)
            return here
        return folder if folder.is_dir() else None


def relocate(say: Callable[[str], None]) -> None:
    """Make a store of the same runs, models and registered versions with its files here.

    Raises:
        StoreError: a stage is running.
        ArchiveError: files that must be there are in neither place.
        sqlite3.Error, mlflow.exceptions.MlflowException: the database cannot be read or written.
    """
    home, database = home_of_files(), database_file(tracking_uri())
    if home is None or database is None:
        say(f"nothing to do: {database or 'the tracking store'} keeps no files in another checkout")
        return
    _check_nothing_runs()
    files, new = MovedFiles(home), database.with_name(database.name + UNDER_WAY)
    say(f"{database}: its files were in {home / artifact_root().name}; making the same store here ...")
    _copy_runs(files, new, say)
    backup = database.with_name(database.name + BEFORE)
    shutil.copy2(database, backup)
    new.replace(database)
    kept = _put_away(files.found)
    _change_positions(home, database)
    said = f"{backup} and {kept}" if kept is not None else str(backup)
    say(
        f"done. The old store is kept as {said}, with what was not taken along (deleted runs, traces); delete it when "
        "you miss nothing. If make ui is running, start it again. Runs have new ids, and the old ones as the tag "
        "taehv.imported_from"
    )


def _copy_runs(files: MovedFiles, new: Path, say: Callable[[str], None]) -> None:
    from taehv.tracking.transfer.export_runs import export_runs
    from taehv.tracking.transfer.import_runs import import_runs

    with _empty_folder(new.with_name(".taehv-relocate")) as folder:
        exported = export_runs(folder, (), None, files_of=files)
        if not new.exists():
            _make_empty_store(new)
        with _store_in(new):
            import_runs(folder)
    say(f"{len(exported.runs)} runs, {exported.versions} registered versions")
    for version in exported.versions_left:
        say(f"not taken along: version {version}, which is no model of a run in this store")


@contextmanager
def _empty_folder(folder: Path) -> Iterator[Path]:
    """Of a fixed name: what a killed relocation left is deleted by the next."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def _make_empty_store(database: Path) -> None:
    """It appears when its tables are complete: MLflow refuses a database in which some are missing."""
    partial = database.with_name(f"{database.name}.tables")
    for file in (partial, partial.with_name(f"{partial.name}-journal")):
        file.unlink(missing_ok=True)
    with _store_in(partial):
        open_store()
    partial.rename(database)


@contextmanager
def _store_in(database: Path) -> Iterator[None]:
    """Here and in MLflow, the store is this file."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = sqlite_uri(database)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before


def _check_nothing_runs() -> None:
    for folder in tracking_folders():
        try:
            is_running = is_being_written(folder.journal)
            with folder.sender_lock().acquire(blocking=False):
                pass
        except Timeout:
            is_running = True
        if is_running:
            raise StoreError(f"a stage is running and tracks in {folder.root}; wait for it, or stop it")


def _put_away(folders: Iterable[Path]) -> Path | None:
    """The files of the old store, which nothing names any more; returns where they are now."""
    root, aside = artifact_root(), artifact_root().with_name(artifact_root().name + BEFORE)
    for folder in dict.fromkeys(folders):
        # A run's are in <run id>/artifacts, a model's in models/<model id>/artifacts.
        if not folder.is_relative_to(root) or folder.parent == root:
            continue
        target = aside / folder.parent.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.parent.rename(target)
    return aside if aside.exists() else None


def _change_positions(home: Path, database: Path) -> None:
    """Journals that had begun to be sent to the old store: their runs are found in the new one by their keys."""
    root = main_repository()
    if not database.is_relative_to(root):
        return
    old = home / database.relative_to(root)
    for folder in tracking_folders():
        _change_position(folder, old)


def _change_position(folder: TrackingFolder, old: Path) -> None:
    send_state = send_state_if_readable(folder.send_state)
    if send_state.store is not None and database_file(send_state.store) == old:
        send_state.store, send_state.run_id = tracking_uri(), None
        send_state.write(folder.send_state)
