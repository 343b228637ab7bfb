"""The files of a clip store and what they must be: ``shards.csv`` lists name, bytes, sha256 and clips of each.

Its own hash, with the teacher's, identifies the dataset. So a start needs to read no more than this list, the sizes of
the shards and the index; a shard's sha256 is for ``taehv doctor``, and each clip has its own in the index.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import astuple, fields
from pathlib import Path

from taehv.data.clip_shards import NAME, ShardFile
from taehv.data.splits import SplitName
from taehv.runtime import atomic_files
from taehv.runtime.errors import UserError
from taehv.runtime.hashing import sha256_of_file, sha256_of_json

INDEX = "index.arrow"
SHARDS = "shards.csv"

_HEADER = [field.name for field in fields(ShardFile)]
_SHA256 = re.compile("[0-9a-f]{64}")


class StoreError(UserError):
    """The clip store is missing or damaged. Made by ``store_error``."""


def store_error(root: Path, file: Path, problem: str) -> StoreError:
    """The error for a file of the store at ``root``, with the commands that restore it.

    ``dvc checkout`` alone, also with --force, leaves a damaged file whose time stamp is the old one: the folder must go
    first. Where DVC links the workspace to its cache the cache holds the same damaged file, which neither a checkout
    nor a new run of prepare_data would replace (tests/data/test_clip_store_restore.py runs all of this).
    """
    if file.is_symlink() or (file.exists() and file.stat().st_nlink > 1):
        delete = f'find -L "$(dvc cache dir)" -samefile {file} -delete; rm -r {root}'
        how = f"DVC's cache shares this file. Restore it with: {delete}; dvc pull {root}"
    else:
        how = f"Restore it with: rm -rf {root} && dvc checkout {root}"
    return StoreError(f"{file} {problem}. {how}\nWhere DVC does not have the clips: dvc repro -f prepare_data")


class StoreFiles:
    """What ``shards.csv`` says."""

    def __init__(self, root: Path, files: Iterable[ShardFile]) -> None:
        """``files``: the shards, and the index, whose clips are those of all splits."""
        by_name = {file.name: file for file in files}
        self._root = root
        self.index = by_name.pop(INDEX)
        self.shards = by_name

    @classmethod
    def read(cls, root: Path) -> StoreFiles:
        """Read the list of the store at ``root``.

        Raises:
            StoreError: it is missing, unreadable or no such list, or names a file that is no part of a store.
        """
        path = root / SHARDS
        try:
            header, *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8")))
            files = [ShardFile(name, int(size), sha256, int(clips)) for name, size, sha256, clips in rows]
            if header != _HEADER or not all(_SHA256.fullmatch(file.sha256) for file in files):
                raise ValueError("it is no list of shards")
            if len({file.name for file in files}) < len(files) or INDEX not in {file.name for file in files}:
                raise ValueError(f"it must name each file once, and {INDEX}")
        except (OSError, ValueError, csv.Error) as error:
            raise store_error(root, path, f"cannot be read: {error}") from error
        strange = [file.name for file in files if file.name != INDEX and not NAME.fullmatch(file.name)]
        if strange:
            raise store_error(root, path, f"names a file that is no shard: {strange[0]!r}")
        return cls(root, files)

    def write(self) -> None:
        """Write the list."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_HEADER)
        writer.writerows(astuple(file) for file in (self.index, *(self.shards[name] for name in sorted(self.shards))))
        atomic_files.write_text(self._root / SHARDS, text.getvalue())

    def sha256_with(self, teacher_sha256: str) -> str:
        """The dataset's hash: of the index's, every shard's and the teacher's."""
        files = {file.name: file.sha256 for file in (self.index, *self.shards.values())}
        return sha256_of_json({"files": files, "teacher": teacher_sha256})

    def of_split(self, split: SplitName) -> list[ShardFile]:
        """The shards of a split."""
        return [shard for name, shard in self.shards.items() if name.startswith(f"{split}-")]

    def check_sizes(self, files: Iterable[ShardFile]) -> None:
        """Compare sizes; nothing is read. It is what keeps a cut-off file from killing the process: reading a memory
        map behind the end of its file is a bus error, not an exception.

        Raises:
            StoreError: a file is missing, or has another size.
        """
        for file in files:
            path = self._root / file.name
            try:
                size = path.stat().st_size
            except OSError as error:
                raise store_error(self._root, path, f"cannot be read: {error}") from error
            if size != file.bytes:
                problem = f"is damaged: it has {size:,} bytes, {SHARDS} wants {file.bytes:,}"
                raise store_error(self._root, path, problem)

    def check_contents(self, files: Iterable[ShardFile]) -> None:
        """Compare every byte, by sha256.

        Raises:
            StoreError: a file cannot be read, or is another one.
        """
        for file in files:
            path = self._root / file.name
            try:
                found = sha256_of_file(path)
            except OSError as error:
                raise store_error(self._root, path, f"cannot be read: {error}") from error
            if found != file.sha256:
                raise store_error(self._root, path, f"is damaged: its sha256 is not the one in {SHARDS}")
