"""data/manifest/: which videos a dataset is made of, with their sizes and what identifies their content.

Up to 10,000 videos are one CSV file, which version control shows line by line; more are Parquet parts. Either way they
are read one by one, in order; while a manifest is checked, each video takes 8 bytes of memory. It is written by
taehv/data/manifest_writer.py.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taehv.data.identity import IDENTITIES, Identity
from taehv.data.repeated_names import RepeatedNames
from taehv.runtime.errors import UserError
from taehv.runtime.user_files import regular_file, shown

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_HERE = "./"


def path_cell(path: str) -> str:
    """The same file's path, beginning with nothing that a spreadsheet computes."""
    return f"{_HERE}{path}" if path.startswith(FORMULA_STARTS) else path


def path_of_cell(cell: str) -> str:
    """The inverse of ``path_cell``."""
    path = cell.removeprefix(_HERE)
    return path if path.startswith(FORMULA_STARTS) else cell


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """The rows as CSV that Python's reader takes back, whatever is in the cells."""
    text = io.StringIO()
    plain, quoted = (csv.writer(text, lineterminator="\n", quoting=how) for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    for row in rows:
        # Python's writer does not quote a carriage return by itself, and its reader takes a bare one for a new line.
        (quoted if any("\r" in str(cell) for cell in row) else plain).writerow(row)
    return text.getvalue()


def text_cell(text: str) -> str:
    """A text, marked as one where a spreadsheet would compute it."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


CSV_NAME = "videos.csv"
PART_NAME = "part-{:05}.parquet"
TOTAL = b"taehv.videos"
"""In the metadata of each Parquet part: the videos of all parts together."""
OWN_COLUMNS = 3
"""Path, bytes and what identifies the content; those after them are an annotation file's."""
HOW_TO_WRITE = "write it with `taehv manifest FOLDER`, `taehv manifest ANNOTATIONS` or `taehv manifest --samples`"

_BATCH = 16_384
_READ_AHEAD = 2**20
"""Rows, and bytes of each column, that are read from a Parquet part at a time."""
_LISTED = 20
"""Problems that are named."""
_SIZE, _DIGEST = re.compile(r"[0-9]{1,100}"), re.compile(r"[0-9a-f]{64}")

_Row = Sequence[Any] | str
"""Path, bytes and digest, or what is wrong with them."""


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    path: str
    """Relative, with forward slashes; params.yaml's data section says to what."""
    bytes: int
    sha256: str
    """Of what ``identity`` says: of the whole file, or of a sample of it."""
    identity: Identity = "sha256"


class ManifestError(UserError):
    """The manifest cannot be used; the message says why, and lists the first problems with their places."""


@dataclass(frozen=True)
class Manifest:
    """A manifest that was checked: its length is known, and each iteration reads its entries from the disk."""

    folder: Path
    identity: Identity
    """Of all its entries: the column that holds it has its name, so that one manifest never mixes two."""
    further: tuple[str, ...]
    """Columns that came from an annotation file. They are kept as text, and no result depends on them."""
    videos: int

    def __len__(self) -> int:
        return self.videos

    def __iter__(self) -> Iterator[ManifestEntry]:
        for where, entry in _entries(manifest_files(self.folder), self.identity):
            if isinstance(entry, str):
                raise ManifestError(f"{self.folder} was changed while it was read: {where}: {entry}")
            yield entry


def read_manifest(folder: Path) -> Manifest:
    """Check every entry of a manifest, of any size.

    Raises:
        ManifestError: it is missing, empty, or has problems.
    """
    files = manifest_files(folder)
    identity, further = _columns(files)
    repeated, videos, wrong = RepeatedNames(), 0, 0
    problems: list[str] = []
    for where, entry in _entries(files, identity):
        if isinstance(entry, ManifestEntry):
            repeated.add(entry.path)
            videos += 1
        else:
            wrong += 1
            problems += [f"  - {where}: {entry}"] if wrong <= _LISTED else []
    again = ((where, entry.path) for where, entry in _entries(files, identity) if isinstance(entry, ManifestEntry))
    for where, name in repeated.find(again):
        wrong += 1
        problems += [f"  - {where}: {shown(name)} is listed twice"] if wrong <= _LISTED else []
    if wrong:
        lines = "1 bad line" if wrong == 1 else f"{wrong} bad lines"
        more = [f"  and {wrong - _LISTED} more"] if wrong > _LISTED else []
        raise ManifestError("\n".join([f"{folder} has {lines}; {HOW_TO_WRITE}", *problems, *more]))
    if not videos:
        raise ManifestError(f"{folder} lists no videos; {HOW_TO_WRITE}")
    return Manifest(folder, identity, further, videos)


def older_manifest(folder: Path) -> Path:
    """Where the manifest was while it was one file; what is there is not read, and refused."""
    return folder.with_suffix(".csv")


def manifest_files(folder: Path) -> list[Path]:
    """The files of a manifest: one of CSV, or all Parquet parts in order.

    Raises:
        ManifestError: there are none, or others, or a manifest of an older version is beside them.
    """
    older = older_manifest(folder)
    if older.is_file():
        raise ManifestError(
            f"{older} is a manifest of an older version, and is not read: the manifest is the folder {folder} now. "
            f"Move it there (mkdir -p {folder} && mv {older} {folder / CSV_NAME}), or delete it"
        )
    try:
        files = files_of_a_manifest(folder)
    except OSError as error:
        raise ManifestError(f"{folder} cannot be read: {error.strerror}; {HOW_TO_WRITE}") from error
    if not files:
        raise ManifestError(f"{folder} cannot be read: it has no {CSV_NAME} and no Parquet parts; {HOW_TO_WRITE}")
    parts = [PART_NAME.format(number) for number in range(len(files))]
    names = [file.name for file in files]
    if names not in ([CSV_NAME], parts):
        found = ", ".join(names[:_LISTED])
        raise ManifestError(
            f"{folder} must hold {CSV_NAME} alone, or {parts[0]} and so on, got {found}; {HOW_TO_WRITE}"
        )
    return files


def files_of_a_manifest(folder: Path) -> list[Path]:
    """What is in the folder, hidden files left aside, if nothing else than manifest files is there.

    Raises:
        ManifestError: something else is there.
        OSError: the folder cannot be read.
    """
    files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    for file in files:
        if file.name != CSV_NAME and not re.fullmatch(r"part-[0-9]{5}\.parquet", file.name):
            raise ManifestError(
                f"{shown(file)} is no file of a manifest, and {folder} is for nothing else; move it away"
            )
        regular_file(file, ManifestError)
    return files


def _columns(files: Sequence[Path]) -> tuple[Identity, tuple[str, ...]]:
    """What identifies the contents, and the further columns; all files agree on them."""
    headers = {_header(file) for file in files}
    for identity in IDENTITIES:
        for header in headers:
            if header[:OWN_COLUMNS] == ("path", "bytes", identity) and len(headers) == 1:
                return identity, header[OWN_COLUMNS:]
    allowed = " or ".join(f"path,bytes,{identity}" for identity in IDENTITIES)
    raise ManifestError(f"{files[0].parent} must start with the columns {allowed}, alike in all files; {HOW_TO_WRITE}")


def _header(file: Path) -> tuple[str, ...]:
    if file.suffix == ".csv":
        return tuple(next(_csv_lines(file), ()))
    with _parquet_part(file) as part:
        return tuple(part.schema_arrow.names)


def _entries(files: Sequence[Path], identity: Identity) -> Iterator[tuple[str, ManifestEntry | str]]:
    """Where each entry is, and the entry, or what is wrong with it.

    Raises:
        ManifestError: a file cannot be read on, or a Parquet part is missing.
    """
    for where, row in _csv_rows(files[0]) if files[0].suffix == ".csv" else _parquet_rows(files):
        problem = row if isinstance(row, str) else _problem(row, identity)
        yield where, problem or ManifestEntry(row[0], int(row[1]), row[2], identity)


def _csv_rows(path: Path) -> Iterator[tuple[str, _Row]]:
    lines = _csv_lines(path)
    columns = len(next(lines))
    for number, line in enumerate(lines, start=2):
        if len(line) == columns:
            yield f"line {number}", [path_of_cell(line[0]), *line[1:OWN_COLUMNS]]
        else:
            yield f"line {number}", f"must have {columns} values, got {len(line)}"


def _csv_lines(path: Path) -> Iterator[list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from csv.reader(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path} cannot be read as CSV: {error}; {HOW_TO_WRITE}") from error


def _parquet_rows(files: Sequence[Path]) -> Iterator[tuple[str, _Row]]:
    videos = 0
    for file in files:
        with _parquet_part(file) as part:
            videos += part.metadata.num_rows
            total = (part.schema_arrow.metadata or {}).get(TOTAL, b"")
            if not total.isdigit() or videos > int(total) or (file == files[-1] and videos < int(total)):
                raise ManifestError(f"{file}: parts of this manifest are missing, or of another one; {HOW_TO_WRITE}")
            number = 0
            for batch in part.iter_batches(_BATCH, columns=part.schema_arrow.names[:OWN_COLUMNS]):
                for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield f"{file.name} row {number}", row


@contextlib.contextmanager
def _parquet_part(file: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file, buffer_size=_READ_AHEAD, pre_buffer=False) as part:
            yield part
    except (OSError, pyarrow.ArrowException) as error:
        said = str(error).strip().splitlines()[0]
        raise ManifestError(f"{file} cannot be read as Parquet: {said}; {HOW_TO_WRITE}") from error


def _problem(row: Sequence[Any], identity: Identity) -> str | None:
    path, size, digest = row
    if not isinstance(path, str) or not path:
        return "the path is empty"
    if not _SIZE.fullmatch(str(size)):
        return f"bytes must be an integer below 10^100, got {str(size)[:40]!r}"
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        return f"{identity} must be 64 lower-case hexadecimal digits, got {digest!r}"
    return None
