"""What an interrupted ``taehv manifest`` had finished, so that the next one does not read it again.

A file's size and time stamp only decide whether what the interrupted run had found out about it is used again. They are
never what identifies it, and a run that ends well forgets them.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self

from taehv.runtime.errors import UserError, disk_full, writing

_SAVED_EVERY_SECONDS = 2.0
"""A killed run loses at most so much; one that takes less leaves nothing on the disk."""


@dataclass(frozen=True, slots=True)
class SeenFile:
    """What was found out about a file, and how it looked then."""

    bytes: int
    mtime_ns: int
    digest: str


class FinishedFiles:
    """A table of files that were read, by their path in the manifest, in a database of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "finished.sqlite"
        self._new: list[tuple[str, int, int, str]] = []
        self._saved_at = time.monotonic()
        self._database: sqlite3.Connection | None = None
        self.before = 0
        """How many files an interrupted run had finished."""

    def __enter__(self) -> Self:
        if self._file.is_file():
            with self._speaking():
                (self.before,) = self._open().execute("SELECT count(*) FROM finished").fetchone()
        return self

    def __exit__(self, *_: object) -> None:
        """Save what is not saved yet, where anything is, or the run has lasted long enough to be worth it."""
        try:
            if self._new and (self._database is not None or self._is_time_to_save()):
                self._save()
        finally:
            if self._database is not None:
                self._database.close()

    def look_up(self, names: Sequence[str]) -> list[SeenFile | None]:
        """What the interrupted run found out about each."""
        if not self.before:
            return [None] * len(names)
        with self._speaking():
            query = f"SELECT * FROM finished WHERE path IN ({','.join('?' * len(names))})"
            found = {path: SeenFile(*seen) for path, *seen in self._open().execute(query, names)}
        return [found.get(name) for name in names]

    def add(self, files: Iterable[tuple[str, SeenFile]]) -> None:
        """Remember them; they are on the disk a little later."""
        self._new += [(name, *astuple(seen)) for name, seen in files]
        if self._is_time_to_save():
            self._save()

    def forget(self) -> None:
        """Delete all of it: the run has ended well."""
        self._new = []
        if self._database is not None:
            self._database.close()
            self._database = None
            shutil.rmtree(self._folder)

    def _is_time_to_save(self) -> bool:
        return time.monotonic() - self._saved_at > _SAVED_EVERY_SECONDS

    def _save(self) -> None:
        with writing(self._file), self._speaking():
            database = self._open()
            with database:
                database.executemany("INSERT OR REPLACE INTO finished VALUES (?, ?, ?, ?)", self._new)
        self._new, self._saved_at = [], time.monotonic()

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self._file, timeout=1)
            # Held by one process from its first word to its end.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            with self._database:
                self._database.execute(
                    "CREATE TABLE IF NOT EXISTS finished "
                    "(path TEXT PRIMARY KEY, bytes INTEGER, mtime_ns INTEGER, digest TEXT) WITHOUT ROWID"
                )
        return self._database

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        """Around the database's work: what is wrong with it becomes an error that says what to do."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code == sqlite3.SQLITE_FULL:
                raise disk_full(self._file) from error
            if code == sqlite3.SQLITE_BUSY:
                raise UserError(
                    f"another `taehv manifest` reads the same videos ({self._file} is in use); wait for it, or stop it"
                ) from error
            raise UserError(
                f"{self._file}, what an interrupted run had finished, cannot be used: {error}. Delete it, and run the "
                "same command again: it starts from the beginning"
            ) from error
