"""The clip store: uint8 clips in bounded ``.npy`` shards, memory-mapped, with one index for all splits.

    index.parquet                            one row per clip, in order: see ClipRecord
    train/<video's sha256>-<part>.npy        (clips, T, 3, H, W) uint8
    val/..., test/...                        the same

Shards belong to one video each, so that adding a video adds files and changes none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tokenize import TokenError
from types import TracebackType
from typing import Any, get_type_hints

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from taehv.data.splits import SplitName
from taehv.runtime.errors import UserError, writing

INDEX = "index.parquet"

Clip = npt.NDArray[np.uint8]
"""(T, 3, H, W) RGB in 0..255."""


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


@dataclass(frozen=True)
class ClipRecord:
    """One stored clip: where it is, and which frames and pixels of which video it shows."""

    clip_id: int
    """Position within the split, from 0."""
    source: str
    """The video's path in data/manifest."""
    video_sha256: str
    split: str
    shard: str
    """The shard's path within the store."""
    row: int
    """The clip's row in the shard."""
    first_frame: int
    """Number, in the video, of the clip's first frame; clip frame i is video frame first_frame + i * frame_stride."""
    frame_stride: int
    frames: int
    top: int
    """Upper border of the clip in the scaled picture, in pixels."""
    left: int
    height: int
    width: int
    scaled_height: int
    """Height of the whole picture after scaling; the video's own for `native`."""
    scaled_width: int
    sha256: str
    """Of the clip's bytes, in T, 3, H, W order."""


class ClipStore:
    """The clips of one split, read-only. ``clip_id`` runs from 0 to ``len(store) - 1``."""

    def __init__(
        self, root: Path, split: SplitName, records: Sequence[ClipRecord], *, verify_reads: bool = True
    ) -> None:
        self.root = root
        self.split = split
        self.records = tuple(records)
        self.sources = tuple(sorted({record.source for record in records}))
        self._shards: dict[str, Clip] = {}
        self._unverified = {record.clip_id for record in self.records} if verify_reads else set()

    @classmethod
    def open(
        cls, root: Path, split: SplitName, *, verify_reads: bool = True, index: Sequence[ClipRecord] | None = None
    ) -> ClipStore:
        """Check that every shard of the split is there whole; they are mapped when first used.

        The check of the shards looks at sizes and headers alone. It is what keeps a cut-off file from killing the
        process: reading a memory map behind the end of its file is a bus error, not an exception.

        Args:
            root: the store's folder.
            split: whose clips.
            verify_reads: compare each clip with its checksum when it is first used.
            index: what ``read_index`` gives, where it has been read (``Dataset`` does, and checks it).

        Raises:
            StoreError: there is no readable index, it has no clip of this split, or a shard is missing or has another
                size or shape than the index says.
        """
        records = [record for record in (read_index(root) if index is None else index) if record.split == split]
        if not records:
            raise store_error(root, root / INDEX, f"lists no {split} clips")
        check_shards(root, records)
        return cls(root, split, records, verify_reads=verify_reads)

    def __len__(self) -> int:
        return len(self.records)

    def clip(self, clip_id: int) -> Clip:
        """(T, 3, H, W) uint8, a read-only view of the mapped file.

        Raises:
            StoreError: the shard cannot be read, or the clip is not the one that was written.
        """
        record = self.records[clip_id]
        shard = self._shards.get(record.shard)
        if shard is None:
            shard = self._shards[record.shard] = self._map(record.shard)
        clip: Clip = shard[record.row]
        if clip_id in self._unverified:
            self._verify(record, clip)
            self._unverified.discard(clip_id)
        return clip

    def verify(self) -> None:
        """Compare every clip with its checksum.

        Raises:
            StoreError: a clip's bytes are not the ones that were written; the message names the file.
        """
        for record in self.records:
            self._verify(record, self.clip(record.clip_id))

    def _verify(self, record: ClipRecord, clip: Clip) -> None:
        if sha256_of_clip(clip) != record.sha256:
            problem = f"is damaged: row {record.row} does not match its checksum"
            raise store_error(self.root, self.root / record.shard, problem)

    def _map(self, shard: str) -> Clip:
        path = self.root / shard
        try:
            mapped: Clip = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise store_error(self.root, path, f"cannot be read: {error}") from error
        return mapped


def sha256_of_clip(clip: Clip) -> str:
    """Hex sha256 of the clip's bytes."""
    return hashlib.sha256(np.ascontiguousarray(clip).tobytes()).hexdigest()


def read_index(root: Path) -> list[ClipRecord]:
    """The records of all splits, in order.

    Raises:
        StoreError: the index is missing, unreadable, or of another version.
    """
    import pandas  # not needed by anything else on a training box

    path = root / INDEX
    try:
        table = pandas.read_parquet(path)
        rows: list[dict[str, Any]] = table.to_dict(orient="records")  # type: ignore[assignment]
    except (OSError, ValueError, TypeError, LookupError, NotImplementedError) as error:  # each by some flipped bit
        raise store_error(root, path, f"cannot be read: {error}") from error
    columns = get_type_hints(ClipRecord)
    if list(table.columns) != list(columns):
        found = ", ".join(map(str, table.columns))
        raise store_error(root, path, f"was written by another version: its columns are {found}")
    if damaged := {name for row in rows for name, kind in columns.items() if type(row[name]) is not kind}:
        raise store_error(root, path, f"is damaged: not every {', '.join(sorted(damaged))} is what it should be")
    return [ClipRecord(**row) for row in rows]


def check_shards(root: Path, records: Sequence[ClipRecord]) -> None:
    """Compare size and header of every shard with what the index says; no pixels are read.

    Raises:
        StoreError: a shard is missing, or is not what the index says.
    """
    rows = Counter(record.shard for record in records)
    shapes = {record.shard: (rows[record.shard], record.frames, 3, record.height, record.width) for record in records}
    for record in records:
        if shapes[record.shard][1:] != (record.frames, 3, record.height, record.width) or not (
            0 <= record.row < rows[record.shard]
        ):
            raise store_error(root, root / INDEX, f"contradicts itself about {record.shard}")
    for name, shape in shapes.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise store_error(root, root / INDEX, f"names a shard outside of the store: {name!r}")
        _check_shard(root, root / name, shape)


def _check_shard(root: Path, path: Path, shape: tuple[int, ...]) -> None:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if npy.read_magic(file) != (1, 0):
                raise ValueError("another version of the .npy format")
            found, fortran_order, dtype = npy.read_array_header_1_0(file)
            header_bytes = file.tell()
    # The header is a Python literal: NumPy lets through what parsing a damaged one raises.
    except (OSError, ValueError, SyntaxError, TokenError, MemoryError, RecursionError) as error:
        raise store_error(root, path, f"cannot be read: {error}") from error
    if (found, fortran_order, dtype) != (shape, False, np.dtype(np.uint8)):
        raise store_error(root, path, f"is {dtype} {found}, the index wants uint8 {shape}")
    expected = header_bytes + math.prod(shape)
    if size != expected:
        raise store_error(root, path, f"is damaged: it has {size:,} bytes, the index wants {expected:,}")


def write_index(root: Path, records: Sequence[ClipRecord]) -> None:
    """Write the records of all splits as the store's index."""
    import pandas

    table = pandas.DataFrame([dataclasses.asdict(record) for record in records])
    with writing(root / INDEX):
        table.to_parquet(root / INDEX, index=False)


MAX_SHARD_BYTES = 256 * 2**20


def rows_per_shard(clip_bytes: int, max_bytes: int = MAX_SHARD_BYTES) -> int:
    """Clips that a shard holds at most; a single clip larger than the bound gets a shard of its own."""
    return max(max_bytes // clip_bytes, 1)


class ClipShardWriter:
    """One ``.npy`` shard (clips, T, 3, H, W) uint8, whose clips grow side by side as their frames are decoded.

    Frames go to their place in the file at once: no clip is ever held in memory. They are written, not assigned
    through a memory map, because a full disk then is an error here instead of a killed process.
    """

    def __init__(self, path: Path, clips: int, frames: int, height: int, width: int) -> None:
        self._frame_shape = (3, height, width)
        self._frames = frames
        self._hashes = [hashlib.sha256() for _ in range(clips)]
        self._written = [0] * clips
        self._path = path
        shape = (clips, frames, *self._frame_shape)
        header = {"descr": npy.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
            npy.write_array_header_1_0(self._file, header)
            self._file.flush()
        self._header_bytes = self._file.tell()

    def append(self, clip: int, frame_chw: npt.NDArray[np.uint8]) -> None:
        """Add the next frame (3, H, W) of a clip.

        Raises:
            DiskFullError: there is no space left for it.
        """
        assert frame_chw.shape == self._frame_shape
        assert frame_chw.dtype == np.uint8
        assert self._written[clip] < self._frames
        data = np.ascontiguousarray(frame_chw).tobytes()
        place = self._header_bytes + (clip * self._frames + self._written[clip]) * len(data)
        with writing(self._path):
            self._file.seek(place)
            self._file.write(data)
        self._hashes[clip].update(data)
        self._written[clip] += 1

    def sha256(self, clip: int) -> str:
        """Hex sha256 of a complete clip's bytes."""
        assert self._written[clip] == self._frames
        return self._hashes[clip].hexdigest()

    def __enter__(self) -> ClipShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing(self._path):
            try:
                if error is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
            finally:
                self._file.close()
