"""The clip store: uint8 clips in tar shards, memory-mapped where they lie, with one index for all splits.

    index.arrow               one row per clip: taehv/data/clip_index.py
    shards.csv                name, bytes, sha256 and clips of the index and of every shard
    train-000000.tar          members 000000-000000.npy, ...: (T, 3, H, W) uint8
    val-000000.tar, test-000000.tar, train-000001.tar, ...

A shard holds the clips of successive videos (by path), of one split; those of a number hold clips of the same videos.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taehv.data.clip_codec import CODECS, WHOLE, Clip, ClipDecodeError, Part
from taehv.data.clip_index import ClipColumns, ClipIndex, ClipRecord, IndexFileError, write_index
from taehv.data.clip_shards import OpenShards, ShardFile
from taehv.data.splits import SPLITS, SplitName
from taehv.data.store_files import INDEX, SHARDS, StoreFiles, store_error
from taehv.runtime.hashing import sha256_of_file


class ClipStore:
    """The clips of one split, or some of them, read-only. ``clip_id`` runs from 0 to ``len(store) - 1``.

    For one thread at a time.
    """

    def __init__(
        self,
        root: Path,
        index: ClipIndex,
        split: SplitName,
        rows: Sequence[int] | None = None,
        *,
        verify_reads: bool = True,
    ) -> None:
        """``rows``: some of the split's in the index; None: all."""
        self.root = root
        self.split = split
        self._index = index
        self._rows = index.rows(split) if rows is None else rows
        self._shards = OpenShards(root)
        self._verified = np.full(len(self._rows), not verify_reads)

    @classmethod
    def open(
        cls, root: Path, split: SplitName, *, verify_reads: bool = True, index: ClipIndex | None = None
    ) -> ClipStore:
        """Check that every shard of the split is there whole, by its size; they are mapped when first used.

        Args:
            root: the store's folder.
            split: whose clips.
            verify_reads: compare each clip with its checksum when it is first used.
            index: what ``open_index`` gives, where it has been opened.

        Raises:
            StoreError: there is no sound index, it has no clip of this split, or a shard is missing or has another
                size.
        """
        files = StoreFiles.read(root)
        opened = open_index(root, files) if index is None else index
        store = cls(root, opened, split, verify_reads=verify_reads)
        if not len(store):
            raise store_error(root, root / INDEX, f"lists no {split} clips")
        files.check_sizes(files.of_split(split))
        return store

    def __len__(self) -> int:
        return len(self._rows)

    def record(self, clip_id: int) -> ClipRecord:
        """What the index says of a clip."""
        return dataclasses.replace(self._index.record(self._rows[clip_id]), clip_id=clip_id)

    @cached_property
    def records(self) -> tuple[ClipRecord, ...]:
        """Of all clips: for the held-out splits, which are small. Training asks for ``columns``."""
        return tuple(self.record(clip_id) for clip_id in range(len(self)))

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """The paths of the videos, sorted: for the held-out splits, too."""
        return tuple(self._index.texts("source").take(np.unique(self.source_numbers(range(len(self))))).to_pylist())

    def source_numbers(self, clip_ids: Sequence[int]) -> npt.NDArray[np.int32]:
        """For each clip a number that stands for its video, increasing with the video's path."""
        rows = [self._rows[clip_id] for clip_id in clip_ids]
        numbers: npt.NDArray[np.int32] = self._index.column("source")[rows]
        return numbers

    def columns(self) -> ClipColumns:
        """What the sampler draws from: all clips of the split."""
        assert self._rows == self._index.rows(self.split)
        return self._index.columns(self.split)

    def clip(self, clip_id: int, part: Part = WHOLE) -> Clip:
        """A part of a clip, uint8: a read-only view of the mapped file where it is raw, else decoded up to there.

        Raises:
            StoreError: the shard cannot be read, or the clip is not the one that was written.
        """
        record = self.record(clip_id)
        if self._verified[clip_id]:
            return self._read(record, part)
        clip = self._read(record)
        self._verify(record, clip)
        self._verified[clip_id] = True
        frames, rows, columns = part
        return clip[frames, :, rows, columns]

    def verify(self) -> None:
        """Compare every clip with its checksum.

        Raises:
            StoreError: a clip's bytes are not the ones that were written; the message names the file.
        """
        for clip_id in range(len(self)):
            record = self.record(clip_id)
            self._verify(record, self._read(record))

    def _read(self, record: ClipRecord, part: Part = WHOLE) -> Clip:
        path = self.root / record.shard
        try:
            member = self._shards.bytes_of(record.shard, record.offset, record.length)
        except (OSError, ValueError) as error:
            raise store_error(self.root, path, f"cannot be read: {error}") from error
        codec = CODECS.get(record.codec)
        if codec is None:
            raise store_error(self.root, path, f"has a clip in {record.codec!r}, which this version does not read")
        try:
            return codec.decode(member, record.shape, part)
        except ClipDecodeError as error:
            raise store_error(self.root, path, f"is damaged: the clip at byte {record.offset}: {error}") from error

    def _verify(self, record: ClipRecord, clip: Clip) -> None:
        if hashlib.sha256(np.ascontiguousarray(clip).data).hexdigest() != record.sha256:
            problem = f"is damaged: the clip at byte {record.offset} does not match its checksum"
            raise store_error(self.root, self.root / record.shard, problem)


def open_index(root: Path, files: StoreFiles | None = None) -> ClipIndex:
    """The index of the store at ``root``, after its checksum was compared: reading a damaged one could go anywhere.

    Raises:
        StoreError: it is missing, damaged, of another version, or names shards that the list of shards does not.
    """
    files = StoreFiles.read(root) if files is None else files
    files.check_sizes([files.index])
    files.check_contents([files.index])
    path = root / INDEX
    try:
        index = ClipIndex.open(path)
    except (OSError, IndexFileError) as error:
        raise store_error(root, path, str(error)) from error
    unknown = set(index.texts("shard").to_pylist()) - set(files.shards)
    if unknown or len(index) != files.index.clips:
        raise store_error(root, path, f"and {SHARDS} do not belong together")
    return index


def complete_store(root: Path, shards: Sequence[ShardFile], records: Sequence[ClipRecord]) -> StoreFiles:
    """Write the index and the list of files beside the shards; returns the list.

    Args:
        root: the folder that the shards are in.
        shards: all of them.
        records: all clips, within each split sorted by the video's path. Their ``clip_id`` does not count.
    """
    write_index(root / INDEX, sorted(records, key=lambda record: SPLITS.index(record.split)))
    index = ShardFile(INDEX, (root / INDEX).stat().st_size, sha256_of_file(root / INDEX), len(records))
    files = StoreFiles(root, [index, *shards])
    files.write()
    return files
