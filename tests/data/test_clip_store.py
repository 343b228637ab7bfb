from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from support.project import REPOSITORY

from taehv.data.clip_store import (
    ClipRecord,
    ClipShardWriter,
    ClipStore,
    StoreError,
    read_index,
    rows_per_shard,
    write_index,
)
from taehv.data.dataset import Dataset, dataset_sha256

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


def flip_a_byte(shard: Path, place: int = -1) -> None:
    data = bytearray(shard.read_bytes())
    data[place] ^= 1
    shard.write_bytes(bytes(data))


def test_verify_finds_a_flipped_byte_and_names_the_file_and_the_way_out(root: Path) -> None:
    flip_a_byte(root / "train/a.npy")
    with pytest.raises(StoreError, match=r"train/a\.npy is damaged: row 2 .*dvc checkout (?s:.*)dvc repro -f"):
        ClipStore.open(root, "train").verify()


def test_a_flipped_byte_is_found_when_its_clip_is_first_used_unless_that_is_switched_off(root: Path) -> None:
    flip_a_byte(root / "train/a.npy")
    store = ClipStore.open(root, "train")
    store.clip(0)
    for _ in range(2):
        with pytest.raises(StoreError, match="row 2 does not match its checksum"):
            store.clip(2)
    ClipStore.open(root, "train", verify_reads=False).clip(2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train/a.npy", "index.parquet"])
def test_whatever_bit_of_a_header_or_the_index_flips_the_store_opens_or_says_one_clear_thing(
    root: Path, name: str
) -> None:
    file = root / name
    intact = file.read_bytes()
    places = range(128) if name.endswith(".npy") else range(0, len(intact), 31)
    refused = 0
    for place in places:
        for bit in range(8):
            damaged = bytearray(intact)
            damaged[place] ^= 1 << bit
            file.write_bytes(damaged)
            try:
                ClipStore.open(root, "train")
            except StoreError as error:
                assert "Traceback" not in str(error)
                refused += 1
    assert refused > 8 * len(places) / 3


def test_a_clip_is_compared_with_its_checksum_once(root: Path) -> None:
    store = ClipStore.open(root, "train")
    store.clip(2)
    mapped = np.lib.format.open_memmap(root / "train/a.npy", mode="r+")
    mapped[2] = 0
    mapped.flush()
    store.clip(2)
    with pytest.raises(StoreError):
        store.verify()


def test_a_split_without_clips_cannot_be_opened(root: Path) -> None:
    with pytest.raises(StoreError, match="lists no val clips"):
        ClipStore.open(root, "val")


def test_a_missing_store_shard_or_a_wrong_shape_is_one_clear_error_at_the_start(root: Path) -> None:
    with pytest.raises(StoreError, match="index.parquet cannot be read"):
        ClipStore.open(root / "nowhere", "train")
    np.save(root / "train/a.npy", np.zeros((3, 5, 3, 8, 8), np.uint8))
    with pytest.raises(StoreError, match="the index wants"):
        ClipStore.open(root, "train")
    np.save(root / "train/a.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(StoreError, match=r"is object \(1,\), the index wants"):
        ClipStore.open(root, "train")
    (root / "train/a.npy").unlink()
    with pytest.raises(StoreError, match=r"a\.npy cannot be read"):
        ClipStore.open(root, "train")


@pytest.mark.parametrize("kept", [0, 5, 100, 128, 500, -1])
def test_a_cut_off_shard_is_one_clear_error_at_the_start_and_never_a_bus_error(root: Path, kept: int) -> None:
    shard = root / "train/a.npy"
    shard.write_bytes(shard.read_bytes()[:kept])
    program = (
        "import sys; from pathlib import Path; from taehv.data.clip_store import ClipStore\n"
        "from taehv.runtime.errors import exit_with\n"
        "exit_with(lambda: int(ClipStore.open(Path(sys.argv[1]), 'train').verify() is None))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(root)], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"error: {shard} ")
    assert "Traceback" not in done.stderr


def test_only_the_shards_of_the_opened_split_must_be_there(root: Path) -> None:
    records = read_index(root)
    elsewhere = dataclasses.replace(records[0], split="val", shard="val/a.npy", row=0)
    write_index(root, [*records, elsewhere])
    ClipStore.open(root, "train")
    with pytest.raises(StoreError, match=r"val/a\.npy cannot be read"):
        ClipStore.open(root, "val")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"shard": "../a.npy"}, "outside of the store"),
        ({"shard": "/etc/passwd"}, "outside of the store"),
        ({"row": 1}, "contradicts itself"),
        ({"row": -1}, "contradicts itself"),
        ({"height": 5}, "the index wants"),
    ],
)
def test_an_index_that_leads_out_of_the_store_or_contradicts_itself_is_refused(
    root: Path, change: dict[str, Any], problem: str
) -> None:
    write_index(root, [dataclasses.replace(read_index(root)[0], **change)])
    with pytest.raises(StoreError, match=problem):
        ClipStore.open(root, "train")


def test_the_index_must_be_the_one_that_dataset_json_describes(root: Path) -> None:
    store = root.parent / "data/clips"
    shutil.copytree(root, store)
    dataset = store.with_name("dataset.json")
    index = read_index(store)
    good = {"teacher_sha256": "t", "dataset_sha256": dataset_sha256(index, "t")}
    dataset.write_text(json.dumps(good))
    Dataset.open(dataset).split("train")
    write_index(store, [dataclasses.replace(index[0], sha256="0" * 64), *index[1:]])
    with pytest.raises(StoreError, match=r"index\.parquet is not the index that .*dataset\.json describes"):
        Dataset.open(dataset).split("train")
    for bad in ("{", "[]", "{}"):
        dataset.write_text(bad)
        with pytest.raises(StoreError, match=r"dataset\.json cannot be read.* dvc checkout --force"):
            Dataset.open(dataset)


def test_an_index_of_another_version_is_refused(root: Path) -> None:
    pandas.read_parquet(root / "index.parquet").drop(columns="left").to_parquet(root / "index.parquet")
    with pytest.raises(StoreError, match="another version"):
        read_index(root)


def test_shards_are_bounded_but_hold_at_least_one_clip() -> None:
    assert rows_per_shard(clip_bytes=100, max_bytes=1000) == 10
    assert rows_per_shard(clip_bytes=5000, max_bytes=1000) == 1
