"""The index of a clip store: a table with a row per clip, memory-mapped: opening it costs the same at any size.

It is an Arrow IPC file without compression, in one record batch: its columns are arrays in the file, which numpy sees
in place. Rows are sorted by split, then by the video's path, then as planned, so that a split is a range of rows, and
so is each video of it. What the whole table would have to be read for is in its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from taehv.data.splits import SPLITS, SplitName
from taehv.runtime.errors import writing

VERSION = 1
_METADATA = b"taehv"
_TEXTS = ("shard", "codec", "source", "video_sha256", "split")
"""Columns of texts that repeat: stored once each, as a dictionary, and referred to by number."""
_NUMBERS = {"offset": "int64", "length": "int64"}
"""The others are int32."""
_SIZES = ("frames", "height", "width")
_SHA256_BYTES = 32
_CHUNK = 1_000_000


class IndexFileError(ValueError):
    """The file is no index, or that of another version."""


@dataclass(frozen=True)
class ClipRecord:
    """One stored clip: where it is, and which frames and pixels of which video it shows."""

    clip_id: int
    """Position within the split, from 0; not stored."""
    source: str
    """The video's path in data/manifest."""
    video_sha256: str
    split: SplitName
    shard: str
    """The shard's name within the store."""
    offset: int
    """Where, in the shard, the clip's member begins, in bytes."""
    length: int
    """Of the member, in bytes."""
    codec: str
    """How the member holds the pixels: a name in ``taehv.data.clip_codec.CODECS``."""
    first_frame: int
    """Number, in the video, of the clip's first frame; clip frame i is video frame first_frame + i * frame_stride."""
    frame_stride: int
    frames: int
    top: int
    """Upper border of the clip in the scaled frame, in pixels."""
    left: int
    height: int
    width: int
    scaled_height: int
    """Height of the whole frame after scaling; the video's own for `native`."""
    scaled_width: int
    sha256: str
    """Of the clip's pixels as they are read back, in T, 3, H, W order."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, 3, H, W)."""
        return self.frames, 3, self.height, self.width


@dataclass(frozen=True)
class ClipColumns:
    """A split's clips as columns, in the order of their ids; views of the mapped index, where they are large."""

    first_clips: npt.NDArray[np.integer]
    """(sources + 1,) the first clip of each source, and the number of clips."""
    frames: npt.NDArray[np.integer]
    """(clips,) as the next two."""
    heights: npt.NDArray[np.integer]
    widths: npt.NDArray[np.integer]
    shards: npt.NDArray[np.integer]
    """(clips,) number of the shard that holds the clip; it never decreases."""
    smallest: tuple[int, int, int]
    """Fewest frames, least height and least width of all clips."""


COLUMNS = tuple(field.name for field in fields(ClipRecord) if field.name != "clip_id")


class ClipIndex:
    """The opened table. Columns are views of the mapped file; nothing is read before it is asked for."""

    def __init__(self, batch: Any, facts: Mapping[str, Any]) -> None:
        """``batch``: a pyarrow RecordBatch; ``facts``: its metadata."""
        self._batch = batch
        self._facts = facts

    @classmethod
    def open(cls, path: Path) -> ClipIndex:
        """Map the file. Whether it is the one that was written, its checksum says (``taehv.data.store_files``).

        Raises:
            OSError: it cannot be read.
            IndexFileError: it is no index of this version.
        """
        import pyarrow  # not needed by anything else on a training box

        try:
            file = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
            facts = json.loads((file.schema.metadata or {})[_METADATA])
            if facts["version"] != VERSION or tuple(file.schema.names) != COLUMNS or file.num_record_batches != 1:
                raise IndexFileError(f"was written by another version: its columns are {', '.join(file.schema.names)}")
            return cls(file.get_batch(0), facts)
        except (pyarrow.ArrowException, ValueError, LookupError, TypeError) as error:
            if isinstance(error, OSError | IndexFileError):
                raise
            raise IndexFileError(f"cannot be read: {error!r}") from error

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def rows(self, split: SplitName) -> range:
        """The rows of a split."""
        return range(*self._facts["rows"][split])

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column, (rows,): numbers; the texts' numbers in ``texts(name)``; sha256 as (rows, 32) bytes."""
        column = self._batch.column(name)
        # Not pyarrow's to_numpy, which imports pandas.
        data = (column.indices if name in _TEXTS else column).buffers()[1]
        if name == "sha256":
            return np.frombuffer(data, dtype=np.uint8).reshape(-1, _SHA256_BYTES)
        return np.frombuffer(data, dtype=_NUMBERS.get(name, "int32"))[: len(self)]

    def texts(self, name: str) -> Any:
        """The distinct texts of a column, by number; sources are sorted. A pyarrow array."""
        return self._batch.column(name).dictionary

    def record(self, row: int) -> ClipRecord:
        """One row; its ``clip_id`` counts from the first row of its split."""
        values: dict[str, Any] = {
            name: self._batch.column(name)[row].as_py() for name in COLUMNS if name not in ("clip_id", "sha256")
        }
        split: SplitName = values["split"]
        digest = bytes(self.column("sha256")[row]).hex()
        return ClipRecord(clip_id=row - self.rows(split).start, sha256=digest, **values)

    def columns(self, split: SplitName) -> ClipColumns:
        """What is drawn from; only ``first_clips`` is computed, the rest are views."""
        rows = slice(*self._facts["rows"][split])
        smallest, largest = self._facts["smallest"][split], self._facts["largest"][split]
        # Where all are of one size, as they are when prepare_data made them, no page of the column is read.
        frames, heights, widths = (
            np.broadcast_to(np.int32(low), rows.stop - rows.start) if low == high else self.column(name)[rows]
            for name, low, high in zip(_SIZES, smallest, largest, strict=True)
        )
        return ClipColumns(
            first_clips=_first_of_each(self.column("source")[rows]),
            frames=frames,
            heights=heights,
            widths=widths,
            shards=self.column("shard")[rows],
            smallest=tuple(smallest),
        )

    def export_parquet(self, path: Path) -> None:
        """Write the table as Parquet, for tools that read nothing else."""
        import pyarrow.parquet

        with writing(path):
            pyarrow.parquet.write_table(pyarrow.Table.from_batches([self._batch]), path)


def write_index(path: Path, records: Iterable[ClipRecord]) -> None:
    """Write an index of these clips, which are sorted by split, then by source; equal records give equal bytes.

    Raises:
        DiskFullError: there is no space left for it.
    """
    records = list(records)
    columns: dict[str, Any] = {name: list(map(attrgetter(name), records)) for name in COLUMNS}
    columns["sha256"] = np.frombuffer(bytes.fromhex("".join(columns["sha256"])), np.uint8)
    write_columns(path, columns)


def write_columns(path: Path, columns: Mapping[str, Any]) -> None:
    """The same from columns: numbers, texts (or pairs of numbers and distinct texts), and sha256 as bytes in a row."""
    import pyarrow

    columns = dict(columns) | {name: _numbered(columns[name]) for name in _TEXTS}
    arrays = {name: _array(name, columns[name]) for name in COLUMNS}
    splits, names = columns["split"]
    facts = _facts(splits, names, [np.asarray(columns[name]) for name in _SIZES])
    batch = pyarrow.record_batch(list(arrays.values()), names=list(arrays))
    schema = batch.schema.with_metadata({_METADATA: json.dumps(facts, sort_keys=True).encode()})
    with writing(path), pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, schema) as writer:
        writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def _array(name: str, values: Any) -> Any:
    import pyarrow

    if name == "sha256":
        buffer = pyarrow.py_buffer(np.ascontiguousarray(values, np.uint8))
        return pyarrow.Array.from_buffers(pyarrow.binary(_SHA256_BYTES), len(buffer) // _SHA256_BYTES, [None, buffer])
    if name not in _TEXTS:
        return pyarrow.array(np.asarray(values, dtype=_NUMBERS.get(name, "int32")))
    numbers, texts = values
    return pyarrow.DictionaryArray.from_arrays(
        pyarrow.array(np.asarray(numbers, np.int32)), pyarrow.array(texts, pyarrow.large_string())
    )


def _numbered(values: Sequence[str] | tuple[Any, Sequence[str]]) -> tuple[Any, Sequence[str]]:
    """Each text's number in the distinct texts, which are sorted, and these; as they are where they are given so."""
    if isinstance(values, tuple):
        return values
    texts = sorted(set(values))
    numbers = {text: number for number, text in enumerate(texts)}
    return [numbers[value] for value in values], texts


def _first_of_each(sources: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Where each run of equal numbers begins, and how many numbers there are.

    Piece by piece: comparing all of a column at once would need as much memory as the column.
    """
    parts = [np.zeros(1, np.int32)]
    for start in range(1, len(sources), _CHUNK):
        piece = sources[start - 1 : start - 1 + _CHUNK + 1]
        parts.append((np.flatnonzero(piece[1:] != piece[:-1]) + start).astype(np.int32))
    return np.concatenate([*parts, np.array([len(sources)], np.int32)])


def _facts(splits: Any, names: Sequence[SplitName], sizes: Sequence[npt.NDArray[np.int32]]) -> dict[str, Any]:
    """The metadata: each split's rows, and its smallest and largest sizes. ``splits``: of each row, by number."""
    ranks = np.array([SPLITS.index(name) for name in names])[splits]
    assert (np.diff(ranks) >= 0).all(), "clips must be sorted by split"
    rows, smallest, largest = {}, {}, {}
    for rank, split in enumerate(SPLITS):
        start, stop = (int(row) for row in np.searchsorted(ranks, [rank, rank + 1]))
        rows[split] = [start, stop]
        if start < stop:
            smallest[split] = [int(values[start:stop].min()) for values in sizes]
            largest[split] = [int(values[start:stop].max()) for values in sizes]
    return {"version": VERSION, "rows": rows, "smallest": smallest, "largest": largest}
