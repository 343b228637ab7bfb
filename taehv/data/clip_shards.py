"""The shards of a clip store: tar files whose members are clips, written frame by frame, read where they lie.

``tar`` and readers of WebDataset's format open them: a member is ``<key>.npy``, keys are unique, sorted and without
dots. Equal clips give equal bytes: owner, time and mode of the members are fixed.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from taehv.data.clip_members import RAW, SUFFIXES, raw_header
from taehv.data.splits import SPLITS, SplitName
from taehv.runtime.errors import writing
from taehv.runtime.hashing import sha256_of_file

NAME = re.compile(rf"({'|'.join(SPLITS)})-(\d{{6,}})\.tar")
"""A shard's name: its split and number."""
MOST_OPEN = 64
"""Shards that a process keeps mapped; the one whose last use is longest ago goes first."""


def shard_name(split: SplitName, number: int) -> str:
    """Within the store's folder."""
    return f"{split}-{number:06d}.tar"


@dataclass(frozen=True)
class ShardFile:
    """A complete shard."""

    name: str
    bytes: int
    sha256: str
    clips: int


class GrowingClip:
    """A raw member of a shard whose frames are being written, each to its place."""

    def __init__(self, shard: ClipShardWriter, offset: int, shape: tuple[int, int, int, int]) -> None:
        """``offset``: of the member in the shard, in bytes."""
        self.codec = RAW
        self.offset = offset
        self.length = len(raw_header(shape)) + int(np.prod(shape))
        self._shard = shard
        self._place = offset + len(raw_header(shape))
        self._frames, *self._frame_shape = shape
        self._written = 0
        self._hash = hashlib.sha256()

    def append(self, frame_chw: npt.NDArray[np.uint8]) -> None:
        """Add the next frame (3, H, W).

        Raises:
            DiskFullError: there is no space left for it.
        """
        assert list(frame_chw.shape) == self._frame_shape
        assert frame_chw.dtype == np.uint8
        assert self._written < self._frames
        data = np.ascontiguousarray(frame_chw).tobytes()
        self._shard.write(self._place + self._written * len(data), data)
        self._hash.update(data)
        self._written += 1

    @property
    def sha256(self) -> str:
        """Hex sha256 of the complete clip's pixels."""
        assert self._written == self._frames
        return self._hash.hexdigest()


class ClipShardWriter:
    """One shard, whose clips grow side by side as their frames are decoded.

    Frames go to their place in the file at once: no clip is ever held in memory. They are written, not assigned
    through a memory map, because a full disk then is an error here instead of a killed process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = 0
        self._clips = 0
        match = NAME.fullmatch(path.name)
        assert match is not None, path
        self._number = match[2]
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")

    @property
    def name(self) -> str:
        return self._path.name

    def begin(self, shape: tuple[int, int, int, int]) -> GrowingClip:
        """Make room for the next clip, (T, 3, H, W).

        Raises:
            DiskFullError: there is no space left for its headers.
        """
        clip = GrowingClip(self, self._end + tarfile.BLOCKSIZE, shape)
        self._reserve(clip.length, clip.codec)
        self.write(clip.offset, raw_header(shape))
        return clip

    def _reserve(self, length: int, codec: str) -> None:
        """Write the head of a member of so many bytes at the end of the shard; what comes next comes behind it."""
        member = tarfile.TarInfo(f"{self._number}-{self._clips:06d}{SUFFIXES[codec]}")
        member.size = length
        self.write(self._end, member.tobuf(tarfile.USTAR_FORMAT))
        self._end += tarfile.BLOCKSIZE + -(-length // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        self._clips += 1

    def write(self, place: int, data: bytes) -> None:
        """Put bytes at a place, from the file's start."""
        with writing(self._path):
            self._file.seek(place)
            self._file.write(data)

    def facts(self) -> ShardFile:
        """What is in it, once it is closed. Its clips grew side by side, so that its hash needs another reading."""
        assert self._file.closed
        return ShardFile(self.name, self._path.stat().st_size, sha256_of_file(self._path), self._clips)

    def __enter__(self) -> ClipShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing(self._path):
            try:
                if error is None:
                    # What tar writes at the end: two empty blocks, and zeros up to a whole record.
                    whole = self._end + 2 * tarfile.BLOCKSIZE
                    self._file.truncate(-(-whole // tarfile.RECORDSIZE) * tarfile.RECORDSIZE)
                    self._file.flush()
                    os.fsync(self._file.fileno())
            finally:
                self._file.close()


class OpenShards:
    """The mapped shards of a process, at most ``MOST_OPEN``: each takes an open file. For one thread at a time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._mapped: OrderedDict[str, npt.NDArray[np.uint8]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._mapped)

    def bytes_of(self, name: str, offset: int, length: int) -> npt.NDArray[np.uint8]:
        """A read-only view of a part of a shard; shorter than ``length`` where the file ends before.

        Raises:
            OSError: the shard cannot be mapped.
            ValueError: it is empty.
        """
        mapped = self._mapped.get(name)
        if mapped is None:
            mapped = self._mapped[name] = np.memmap(self._root / name, dtype=np.uint8, mode="r")
            if len(self._mapped) > MOST_OPEN:
                self._mapped.popitem(last=False)
        self._mapped.move_to_end(name)
        return mapped[max(offset, 0) : max(offset, 0) + length]
