"""The shards of a clip store: tar files whose members are clips, written frame by frame, read where they lie.

``tar`` and readers of WebDataset's format open them: a member is ``<key>.npy`` or ``<key>.mp4``, keys are unique,
sorted and without dots. Equal clips give equal bytes: owner, time and mode of the members are fixed.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import tarfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from taehv.config.params import ClipCodecName
from taehv.data.clip_codec import CODECS, RAW, Clip, Shape, psnr_db
from taehv.data.splits import SPLITS, SplitName
from taehv.runtime.errors import writing
from taehv.runtime.hashing import sha256_of_file

NAME = re.compile(rf"({'|'.join(SPLITS)})-(\d{{6,}})\.tar")
"""A shard's name: its split and number."""
MOST_OPEN = 64
"""Shards that a process keeps mapped; the one whose last use is longest ago goes first."""


def shard_name(split: SplitName, number: int) -> str:
    """Within the store's folder. Shards of one number hold clips of the same videos."""
    return f"{split}-{number:06d}.tar"


@dataclass(frozen=True)
class ShardFile:
    """A complete shard."""

    name: str
    bytes: int
    sha256: str
    clips: int


class RawClip:
    """A member of a shard whose frames are being written, each to its place: none is held in memory."""

    codec: ClipCodecName = "raw"
    psnr_db: float | None = None
    """Against the pixels that were appended; None where it is the same ones that are read back."""

    def __init__(self, shard: ClipShardWriter, shape: Shape) -> None:
        self._shard = shard
        self._frames, *self._frame_shape = shape
        self._written = 0
        self._hash = hashlib.sha256()
        header = RAW.header(shape)
        self.length = len(header) + math.prod(shape)
        self.offset = shard.new_member(RAW.suffix, self.length)
        self._place = self.offset + len(header)
        shard.write(self.offset, header)

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


class EncodedClip:
    """A clip that becomes a member of a shard when its last frame is there; until then it is held in memory."""

    offset: int
    length: int
    sha256: str
    """Hex sha256 of the pixels as they are read back; known, as the two above, when the clip is complete."""
    psnr_db: float | None = None
    """As of ``RawClip``."""

    def __init__(self, shard: ClipShardWriter, shape: Shape, codec: ClipCodecName, quality: int) -> None:
        self.codec = codec
        self._shard = shard
        self._quality = quality
        self._shape = shape
        self._frames: list[npt.NDArray[np.uint8]] = []

    def append(self, frame_chw: npt.NDArray[np.uint8]) -> None:
        """Add the next frame (3, H, W).

        Raises:
            DiskFullError: there is no space left for the clip.
        """
        assert len(self._frames) < self._shape[0]
        self._frames.append(frame_chw.copy())
        if len(self._frames) == self._shape[0]:
            self._complete(np.stack(self._frames))
            self._frames.clear()

    def _complete(self, clip: Clip) -> None:
        assert clip.shape == self._shape
        assert clip.dtype == np.uint8
        codec = CODECS[self.codec]
        data = codec.encode(clip, self._quality)
        self.length = len(data)
        self.offset = self._shard.new_member(codec.suffix, self.length)
        self._shard.write(self.offset, data)
        if not codec.exact:
            stored = codec.decode(data, self._shape)
            self.psnr_db = psnr_db(clip, stored)
            clip = stored
        self.sha256 = hashlib.sha256(clip.data).hexdigest()


GrowingClip = RawClip | EncodedClip


class ClipShardWriter:
    """One shard, whose clips grow side by side as their frames are decoded.

    A raw clip's frames go to their place in the file at once: no clip is ever held in memory. They are written, not
    assigned through a memory map, because a full disk then is an error here instead of a killed process.
    """

    def __init__(self, path: Path, codec: ClipCodecName = "raw", quality: int = 1) -> None:
        """``codec`` and ``quality``: of all clips."""
        self._path = path
        self._codec = codec
        self._quality = quality
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

    def begin(self, shape: Shape) -> GrowingClip:
        """The next clip, (T, 3, H, W). A raw one has its place from here on, another when it is complete.

        Raises:
            DiskFullError: there is no space left for its headers.
        """
        return RawClip(self, shape) if self._codec == "raw" else EncodedClip(self, shape, self._codec, self._quality)

    def new_member(self, suffix: str, size: int) -> int:
        """Begin a member of ``size`` bytes; returns where they come, from the file's start.

        Raises:
            DiskFullError: there is no space left for its header.
        """
        member = tarfile.TarInfo(f"{self._number}-{self._clips:06d}{suffix}")
        member.size = size
        self.write(self._end, member.tobuf(tarfile.USTAR_FORMAT))
        place = self._end + tarfile.BLOCKSIZE
        self._end = place + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        self._clips += 1
        return place

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
