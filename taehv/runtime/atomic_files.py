"""Writing files so that a reader sees either the old content or the whole new one."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taehv.runtime.errors import UserError, writing
from taehv.runtime.user_files import kind_of, shown

_NAME_BYTES = 255
"""The longest name that ext4, XFS, btrfs, APFS and NTFS take."""


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``: written beside it, flushed to disk, then renamed."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside ``path``, of the same suffix, to be written by the caller; it takes ``path``'s place at the end.

    If the caller fails, it is deleted and ``path`` stays as it was. Who may read the new file is what the umask says.

    Raises:
        UserError: something that is no regular file is there already (a folder, a device, a pipe, or a link to one).
        DiskFullError: there is no space left for it.
    """
    _check_may_be_replaced(path)
    partial = _beside(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # what a killed process left, or a link that someone put there
        try:
            with usual_mode(partial):
                yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def usual_mode(path: Path) -> Iterator[None]:
    """Around the writing of a new file: it gets the mode that the umask gives.

    safetensors writes into a temporary file of its own, which only its owner may read, and renames it.
    """
    with path.open("wb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    yield
    path.chmod(mode)


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as readable JSON. NaN and infinity are refused: JSON has no word for them."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _check_may_be_replaced(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # nothing there, or a link to nothing; whatever else is wrong, creating the file says it
    if not stat.S_ISREG(mode):
        raise UserError(f"{shown(path)} is {kind_of(mode)}; output is written to new or regular files only")


def _beside(path: Path) -> Path:
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    if len(os.fsencode(partial.name)) > _NAME_BYTES:
        stem = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
        # A suffix that long names no kind of file.
        suffix = path.suffix if len(os.fsencode(path.suffix)) < _NAME_BYTES // 2 else ""
        partial = path.with_name(f".{stem}.partial{suffix}")
    return partial
