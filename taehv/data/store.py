"""The clip store: uint8 clips in bounded ``.npy`` shards, memory-mapped, with one index for all splits.

    index.parquet                            one row per clip, in order: see ClipRecord
    train/<video's sha256>-<part>.npy        (clips, T, 3, H, W) uint8
    val/..., test/...                        the same

Shards belong to one video each, so that adding a video adds files and changes none.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from taehv.data.splits import SplitName
from taehv.errors import UserError

INDEX = "index.parquet"

Clip = npt.NDArray[np.uint8]
"""(T, 3, H, W) RGB in 0..255."""


class StoreError(UserError):
    """The clip store is missing or damaged."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"{problem}. Fetch the clips again with `dvc checkout data/clips`, "
            "or make them again with `dvc repro -f prepare_data`."
        )


@dataclass(frozen=True)
class ClipRecord:
    """One stored clip: where it is, and which frames and pixels of which video it shows."""

    clip_id: int
    """Position within the split, from 0."""
    source: str
    """The video's path in data/manifest.csv."""
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

    def __init__(self, root: Path, split: SplitName, records: Sequence[ClipRecord]) -> None:
        self.root = root
        self.split = split
        self.records = tuple(records)
        self.sources = tuple(sorted({record.source for record in records}))
        self._shards: dict[str, Clip] = {}

    @classmethod
    def open(cls, root: Path, split: SplitName) -> ClipStore:
        """Read the index; shards are mapped when first used.

        Raises:
            StoreError: there is no readable index, or it has no clip of this split.
        """
        records = [record for record in read_index(root) if record.split == split]
        if not records:
            raise StoreError(f"{root / INDEX} lists no {split} clips")
        return cls(root, split, records)

    def __len__(self) -> int:
        return len(self.records)

    def clip(self, clip_id: int) -> Clip:
        """(T, 3, H, W) uint8, a read-only view of the mapped file.

        Raises:
            StoreError: the shard is missing or is not what the index says.
        """
        record = self.records[clip_id]
        shard = self._shards.get(record.shard)
        if shard is None:
            shard = self._shards[record.shard] = self._map(record.shard)
        expected = (record.frames, 3, record.height, record.width)
        if record.row >= len(shard) or shard.shape[1:] != expected or shard.dtype != np.uint8:
            shape = f"{shard.dtype} {shard.shape}"
            raise StoreError(f"{self.root / record.shard} is {shape}, the index wants row {record.row} of {expected}")
        clip: Clip = shard[record.row]
        return clip

    def verify(self) -> None:
        """Compare every clip with its checksum.

        Raises:
            StoreError: a clip's bytes are not the ones that were written; the message names the file.
        """
        for record in self.records:
            if sha256_of_clip(self.clip(record.clip_id)) != record.sha256:
                shard = self.root / record.shard
                raise StoreError(f"{shard} is damaged: row {record.row} does not match its checksum")

    def _map(self, shard: str) -> Clip:
        path = self.root / shard
        try:
            mapped: Clip = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read: {error}") from error
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
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    columns = [field.name for field in dataclasses.fields(ClipRecord)]
    if list(table.columns) != columns:
        raise StoreError(f"{path} was written by another version: its columns are {', '.join(table.columns)}")
    rows: list[dict[str, Any]] = table.to_dict(orient="records")  # type: ignore[assignment]
    return [ClipRecord(**row) for row in rows]


def write_index(root: Path, records: Sequence[ClipRecord]) -> None:
    """Write the records of all splits as the store's index."""
    import pandas

    pandas.DataFrame([dataclasses.asdict(record) for record in records]).to_parquet(root / INDEX, index=False)
