"""Annotation files: lists of videos as JSON, JSON Lines, CSV or Parquet, read entry by entry in bounded memory."""

from __future__ import annotations

import csv
import json
import mmap
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taehv.runtime.errors import UserError
from taehv.runtime.user_files import regular_file

PATH = "path"
_LONGEST_LINE = 16 * 2**20
"""Bytes of one entry in JSON Lines; what is longer is no list of lines."""
_PARQUET_BATCH = 16_384
_READ_AHEAD = 2**20
"""Bytes of each column that are read from a Parquet file at a time."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# The escaped first half of a character without the second; an even number of backslashes before it is a plain text.
_HALF_CHARACTER = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")


@dataclass(frozen=True, slots=True)
class Annotation:
    """One entry of a list of videos."""

    path: str
    """As it is written there."""
    further: Mapping[str, str]
    """Its other columns, as text: what is no string as JSON, what is absent or null as an empty one."""


NOTHING_FURTHER: Mapping[str, str] = {}


def read_annotations(path: Path) -> Iterator[Annotation]:
    """The entries of an annotation file, in its order. The format follows from the name's suffix.

    Raises:
        UserError: the file cannot be read, is of no format that is known, or an entry has no path. Entries before the
            wrong one are given out first.
    """
    reader = _READERS.get(regular_file(path).suffix.lower())
    if reader is None:
        known = ", ".join(_READERS)
        raise UserError(f"{path} must be an annotation file whose name ends in one of {known}; rename or convert it")
    try:
        yield from reader(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _json(path: Path) -> Iterator[Annotation]:
    """``{"list": [{"path": ...}, ...]}``, or the list alone."""
    import ijson  # here: commands that read no JSON list start without it

    expected = f'{path} must be JSON like {{"list": [{{"path": "clip.mp4"}}]}} or a list of such entries'
    with path.open("rb") as file:
        if file.read(len(_BYTE_ORDER_MARK)) != _BYTE_ORDER_MARK:
            file.seek(0)
        start = file.tell()
        place = "item" if _first_sign(file) == b"[" else "list.item"
        file.seek(start)
        number, sound = 0, False
        try:
            for number, entry in enumerate(ijson.items(file, place, use_float=True), start=1):
                if not isinstance(entry, dict) or not isinstance(entry.get(PATH), str):
                    raise UserError(f"{expected}: entry {number - 1} has no text called 'path'")
                if not sound and ("?" in entry[PATH] or not entry[PATH].isascii()):
                    if _has_half_characters(path):
                        raise UserError(f"{path} has half characters (lone surrogates): names cannot be told; fix it")
                    sound = True
                yield _annotation(entry)
            if not number and place == "list.item" and not _has_list(file, start):
                raise UserError(f"{expected}: it has no list called 'list'")
        except ijson.JSONError as error:
            raise UserError(f"{expected}: after {number} entries: {_one_line(error)}") from error


def _first_sign(file: Any) -> bytes:
    while (sign := file.read(1)).isspace():
        pass
    return bytes(sign)


def _has_list(file: Any, start: int) -> bool:
    import ijson

    file.seek(start)
    return any(prefix == "list" and event == "start_array" for prefix, event, _ in ijson.parse(file))


def _has_half_characters(path: Path) -> bool:
    """Whether the JSON text escapes the first half of a character alone: ijson's parser makes another one of it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return _HALF_CHARACTER.search(text) is not None


def _one_line(error: Exception) -> str:
    """What ijson says, without its drawing of where that is."""
    said = error.args[0] if error.args else error
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    return text.strip().splitlines()[0].strip().rstrip(".")


def _json_lines(path: Path) -> Iterator[Annotation]:
    """One JSON object in each line; empty lines are none."""
    expected = f'{path} must have one JSON entry in each line, like {{"path": "clip.mp4"}}'
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            if len(line) == _LONGEST_LINE:
                raise UserError(f"{expected}: line {number} is longer than {_LONGEST_LINE // 2**20} MiB")
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            if line.isspace():
                continue
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{expected}: line {number}: {error}") from error
            if not isinstance(entry, dict) or not isinstance(entry.get(PATH), str):
                raise UserError(f"{expected}: line {number} has no text called 'path'")
            yield _annotation(entry)


def _csv(path: Path) -> Iterator[Annotation]:
    """A header with a column ``path``, and one row for each video."""
    # Line ends as they are: universal ones would change a name that holds a carriage return.
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        try:
            header = next(rows, [])
            if PATH not in header:
                raise UserError(f"{path} must be CSV whose first line has a column called 'path'")
            if len(set(header)) < len(header):
                raise UserError(f"{path}: two columns have the same name; the first line is {','.join(header)}")
            for number, row in enumerate(filter(None, rows), start=1):
                if len(row) != len(header):
                    raise UserError(f"{path}: row {number} must have {len(header)} values, got {len(row)}")
                entry = dict(zip(header, row, strict=True))
                if not entry[PATH]:
                    raise UserError(f"{path}: the path in row {number} is empty")
                yield _annotation(entry)
        except csv.Error as error:
            raise UserError(f"{path} cannot be read as CSV: line {rows.line_num}: {error}") from error


def _parquet(path: Path) -> Iterator[Annotation]:
    """A table with a column ``path`` of texts."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, buffer_size=_READ_AHEAD, pre_buffer=False) as file:
            names = file.schema_arrow.names
            if names.count(PATH) != 1 or len(set(names)) < len(names):
                raise UserError(f"{path} must have one column called 'path', got {', '.join(names) or 'none'}")
            for batch in file.iter_batches(_PARQUET_BATCH):
                for entry in batch.to_pylist():
                    if not isinstance(entry[PATH], str):
                        raise UserError(f"{path}: a path must be a text, got {entry[PATH]!r}")
                    yield _annotation(entry)
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} cannot be read as Parquet: {_one_line(error)}") from error


def _annotation(entry: Mapping[str, Any]) -> Annotation:
    further = {name: _as_text(value) for name, value in entry.items() if name != PATH}
    return Annotation(entry[PATH], further or NOTHING_FURTHER)


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


_READERS: Mapping[str, Callable[[Path], Iterator[Annotation]]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
}
