"""Writing files so that a reader sees either the old content or the whole new one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taehv.errors import writing

LONGEST_NAME = 255
"""Bytes, of ext4, XFS, btrfs, APFS and NTFS."""


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``: written beside it, flushed to disk, then renamed."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside ``path``, of the same suffix, to be written by the caller; it takes ``path``'s place at the end.

    If the caller fails, it is deleted and ``path`` stays as it was.

    Raises:
        DiskFullError: there is no space left for it.
    """
    partial = path.with_name(_partial_name(path))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _partial_name(path: Path) -> str:
    """Hidden, of the same suffix, and no longer than a file system takes (255 bytes) where ``path``'s own is not."""
    name = f".{path.stem}.partial{path.suffix}"
    if len(os.fsencode(name)) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]
    return f".{digest}.partial{path.suffix if len(os.fsencode(path.suffix)) < LONGEST_NAME // 2 else ''}"


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as readable JSON. NaN and infinity are refused: JSON has no word for them."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
