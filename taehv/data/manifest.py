"""data/manifest.csv: which videos a dataset is made of, with their sizes and checksums."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from taehv.data.sources import VideoFiles
from taehv.runtime import atomic_files
from taehv.runtime.errors import UserError
from taehv.runtime.hashing import sha256_of_file
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


COLUMNS = ("path", "bytes", "sha256")
HOW_TO_WRITE = "write it with `taehv manifest FOLDER`, `taehv manifest ANNOTATIONS` or `taehv manifest --samples`"


@dataclass(frozen=True)
class ManifestEntry:
    path: str
    """Relative, with forward slashes; params.yaml's data section says to what."""
    bytes: int
    sha256: str


class ManifestError(UserError):
    """The manifest cannot be used; the message lists every problem with its line."""


def describe(files: VideoFiles, names: Iterable[str]) -> list[ManifestEntry]:
    """The manifest entries of existing files.

    Raises:
        UserError: one of the files does not exist or may not be used.
    """
    entries = []
    for name in names:
        file = files.locate(name)
        try:
            if not file.exists():
                raise UserError(f"{shown(name)}: no such file ({shown(file)})")
            entries.append(ManifestEntry(name, regular_file(file).stat().st_size, sha256_of_file(file)))
        except OSError as error:
            raise UserError(f"{shown(name)} cannot be read: {error.strerror}") from error
    return entries


def write_manifest(path: Path, entries: Iterable[ManifestEntry]) -> None:
    """Replace the manifest. Every name that UTF-8 can say comes back as it was."""
    rows = ((path_cell(entry.path), entry.bytes, entry.sha256) for entry in entries)
    atomic_files.write_text(path, csv_text([COLUMNS, *rows]))


def read_manifest(path: Path) -> list[ManifestEntry]:
    """The manifest's entries, in order.

    Raises:
        ManifestError: it is missing, empty, or has problems; all of them are listed.
    """
    try:
        with regular_file(path).open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError, UserError) as error:
        raise ManifestError(f"{path} cannot be read ({error}); {HOW_TO_WRITE}") from error
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise ManifestError(f"{path} cannot be read as CSV: {error}; {HOW_TO_WRITE}") from error
    if not rows or tuple(rows[0]) != COLUMNS:
        raise ManifestError(f"{path} must start with the line {','.join(COLUMNS)}; {HOW_TO_WRITE}")
    problems: list[str] = []
    entries: dict[str, ManifestEntry] = {}
    for line, row in enumerate(rows[1:], start=2):
        problem = _problem(row, entries)
        if problem:
            problems.append(f"  - line {line}: {problem}")
        else:
            name = path_of_cell(row[0])
            entries[name] = ManifestEntry(name, int(row[1]), row[2])
    if problems:
        lines = "1 bad line" if len(problems) == 1 else f"{len(problems)} bad lines"
        raise ManifestError("\n".join([f"{path} has {lines}; {HOW_TO_WRITE}", *problems]))
    if not entries:
        raise ManifestError(f"{path} lists no videos; {HOW_TO_WRITE}")
    return list(entries.values())


def _problem(row: list[str], entries: dict[str, ManifestEntry]) -> str | None:
    if len(row) != len(COLUMNS):
        return f"must have {len(COLUMNS)} values, got {len(row)}"
    cell, size, sha256 = row
    path = path_of_cell(cell)
    if not path:
        return "the path is empty"
    if path in entries:
        return f"{shown(path)} is listed twice"
    if not re.fullmatch(r"[0-9]{1,100}", size):
        return f"bytes must be an integer below 10^100, got {size[:40]!r}"
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        return f"sha256 must be 64 lower-case hexadecimal digits, got {sha256!r}"
    return None
