"""Writing data/manifest/: one CSV file for up to 10,000 videos, Parquet parts for more."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from taehv.data.identity import IDENTITIES, Identity
from taehv.data.manifest import (
    CSV_NAME,
    OWN_COLUMNS,
    PART_NAME,
    TOTAL,
    ManifestEntry,
    csv_text,
    files_of_a_manifest,
    path_cell,
    text_cell,
)
from taehv.runtime import atomic_files
from taehv.runtime.errors import UserError, writing
from taehv.runtime.user_files import kind_of, shown

CSV_VIDEOS = 10_000
"""Up to so many videos the manifest is CSV (1 MB), which version control shows line by line."""
PART_VIDEOS = 1_000_000
"""In each Parquet part but the last."""
_ROW_GROUP = 32_768

Rows = Iterable[tuple[ManifestEntry, Mapping[str, str]]]
"""Entries, each with the further columns that an annotation file has for it."""


def write_manifest(
    folder: Path, rows: Rows, *, videos: int, identity: Identity = "sha256", further: Sequence[str] = ()
) -> None:
    """Replace the manifest. Every name that UTF-8 can say comes back as it was.

    The new files are complete on the disk before an old one goes. Parts that belong together say so: where the process
    dies between the first new one and the last, the reader refuses them.

    Args:
        folder: where it is.
        rows: read once, in order; all entries are of the same identity.
        videos: how many there are.
        identity: theirs.
        further: the further columns, in order.

    Raises:
        UserError: it cannot be written there, other files are there, or there are more or fewer rows than ``videos``.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(
            f"{shown(folder)} is {kind_of(folder.stat().st_mode)}, and a manifest is a folder; name another"
        )
    with writing(folder / CSV_NAME):
        folder.mkdir(parents=True, exist_ok=True)
        old = files_of_a_manifest(folder)
        new_files = folder / ".new.partial"
        shutil.rmtree(new_files, ignore_errors=True)  # what a killed process left
        new_files.mkdir()
    header = ["path", "bytes", identity, *map(_further_column, further)]
    values = (
        [entry.path, entry.bytes, entry.sha256, *(more.get(name, "") for name in further)] for entry, more in rows
    )
    try:
        written = (_write_csv if videos <= CSV_VIDEOS else _write_parts)(new_files, header, values, videos)
        if written != videos:
            raise UserError(f"the list of videos changed while it was read, from {videos} to {written}; run it again")
        new = sorted(new_files.iterdir())
        for file in old:
            if [file.name] != [one.name for one in new]:  # a single file is replaced: there is one at any moment
                file.unlink()
        for file in new:
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(new_files)
        with contextlib.suppress(OSError):
            folder.rmdir()  # only where nothing is in it: it was made for what did not come


def _further_column(name: str) -> str:
    """A further column's name; those that the manifest itself has get another one."""
    return f"annotation.{name}" if name in ("path", "bytes", *IDENTITIES) else name


def _write_csv(folder: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], videos: int) -> int:
    cells = [[path_cell(path), size, digest, *map(text_cell, further)] for path, size, digest, *further in rows]
    columns = [*header[:OWN_COLUMNS], *map(text_cell, header[OWN_COLUMNS:])]
    atomic_files.write_text(folder / CSV_NAME, csv_text([columns, *cells]))
    return len(cells)


def _write_parts(folder: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], videos: int) -> int:
    import pyarrow
    from pyarrow import parquet

    types = [pyarrow.int64() if name == "bytes" else pyarrow.string() for name in header]
    schema = pyarrow.schema(list(zip(header, types, strict=True)), metadata={TOTAL: str(videos)})
    written = 0
    for number, groups in enumerate(_parts(rows)):
        with (
            atomic_files.replacing(folder / PART_NAME.format(number)) as file,
            parquet.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            for group in groups:
                columns = zip(zip(*group, strict=True), types, strict=True)
                arrays = [pyarrow.array(values, kind) for values, kind in columns]
                writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
                written += len(group)
    return written


def _parts(rows: Iterable[Sequence[Any]]) -> Iterator[Iterator[list[Sequence[Any]]]]:
    """The row groups of each part; each is to be used before the next is asked for."""
    remaining = iter(rows)
    while first := list(islice(remaining, min(_ROW_GROUP, PART_VIDEOS))):
        yield _row_groups(first, islice(remaining, PART_VIDEOS - len(first)))


def _row_groups(first: list[Sequence[Any]], others: Iterator[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    yield first
    while group := list(islice(others, _ROW_GROUP)):
        yield group
