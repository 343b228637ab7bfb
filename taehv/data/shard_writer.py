"""Writing a shard of the clip store frame by frame."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from taehv.runtime.errors import writing

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
