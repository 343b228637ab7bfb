from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas
import pytest

from taehv.data.store import ClipRecord, ClipStore, StoreError, read_index, write_index
from taehv.data.store_writer import ClipShardWriter, rows_per_shard

SHAPE = (3, 5, 3, 4, 6)


@pytest.fixture
def clips() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path, clips: np.ndarray) -> Path:
    """A store with three training clips, written frame by frame, side by side."""
    with ClipShardWriter(tmp_path / "train/a.npy", *SHAPE[:2], *SHAPE[3:]) as shard:
        for frame in range(5):
            for clip in range(3):
                shard.append(clip, clips[clip, frame])
        hashes = [shard.sha256(clip) for clip in range(3)]
    place = {"frames": 5, "top": 0, "left": 0, "height": 4, "width": 6, "scaled_height": 4, "scaled_width": 6}
    video = {"source": "a.mp4", "video_sha256": "0" * 64, "split": "train", "shard": "train/a.npy"}
    records = [
        ClipRecord(clip_id=i, row=i, first_frame=5 * i, frame_stride=1, sha256=hashes[i], **video, **place)  # type: ignore[arg-type]
        for i in range(3)
    ]
    write_index(tmp_path, records)
    return tmp_path


def test_what_was_written_is_read_back_memory_mapped(root: Path, clips: np.ndarray) -> None:
    store = ClipStore.open(root, "train")
    assert len(store) == 3
    assert store.sources == ("a.mp4",)
    assert isinstance(store.clip(1), np.memmap)
    np.testing.assert_array_equal([store.clip(i) for i in range(3)], clips)
    store.verify()


def test_a_clip_cannot_be_changed_by_its_readers(root: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        ClipStore.open(root, "train").clip(0)[0] = 0


def test_a_shard_is_an_ordinary_numpy_file(root: Path, clips: np.ndarray) -> None:
    np.testing.assert_array_equal(np.load(root / "train/a.npy"), clips)


def test_the_index_gives_back_plain_numbers_and_texts(root: Path) -> None:
    for record in read_index(root):
        for value in dataclasses.astuple(record):
            assert type(value) in (int, str)


def test_verify_finds_a_flipped_byte_and_names_the_file_and_the_way_out(root: Path) -> None:
    shard = root / "train/a.npy"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"train/a\.npy is damaged: row 2 .*dvc checkout data/clips.*dvc repro -f"):
        ClipStore.open(root, "train").verify()


def test_a_split_without_clips_cannot_be_opened(root: Path) -> None:
    with pytest.raises(StoreError, match="lists no val clips"):
        ClipStore.open(root, "val")


def test_a_missing_store_shard_or_a_wrong_shape_is_one_clear_error(root: Path) -> None:
    with pytest.raises(StoreError, match="index.parquet cannot be read"):
        ClipStore.open(root / "nowhere", "train")
    np.save(root / "train/a.npy", np.zeros((3, 5, 3, 8, 8), np.uint8))
    with pytest.raises(StoreError, match="the index wants"):
        ClipStore.open(root, "train").clip(0)
    (root / "train/a.npy").unlink()
    with pytest.raises(StoreError, match=r"a\.npy cannot be read"):
        ClipStore.open(root, "train").clip(0)


def test_a_cut_off_shard_is_one_clear_error(root: Path) -> None:
    shard = root / "train/a.npy"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(StoreError, match="cannot be read"):
        ClipStore.open(root, "train").clip(0)


def test_an_index_of_another_version_is_refused(root: Path) -> None:
    pandas.read_parquet(root / "index.parquet").drop(columns="left").to_parquet(root / "index.parquet")
    with pytest.raises(StoreError, match="another version"):
        read_index(root)


def test_shards_are_bounded_but_hold_at_least_one_clip() -> None:
    assert rows_per_shard(clip_bytes=100, max_bytes=1000) == 10
    assert rows_per_shard(clip_bytes=5000, max_bytes=1000) == 1
