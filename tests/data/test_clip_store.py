from __future__ import annotations

import dataclasses
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from support.clip_stores import moving_pattern, replace_index, write_clips
from support.project import REPOSITORY

from taehv.config.params import ClipCodecName
from taehv.config.profiles import load_profile
from taehv.data import clip_shards
from taehv.data.clip_codec import psnr_db
from taehv.data.clip_index import ClipIndex, ClipRecord
from taehv.data.clip_store import ClipStore, open_index
from taehv.data.dataset import Dataset
from taehv.data.store_files import StoreError, StoreFiles
from taehv.data.video_files import open_video

SHAPE = (3, 5, 3, 4, 6)
SHARD = "train-000000.tar"
OPENING = """
import sys; from pathlib import Path; from taehv.data.clip_store import ClipStore
from taehv.runtime.errors import exit_with
exit_with(lambda: int(ClipStore.open(Path(sys.argv[1]), 'train').verify() is None))
"""


@pytest.fixture
def clips() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path, clips: np.ndarray) -> Path:
    """A store with three training clips, written frame by frame, side by side."""
    write_clips(tmp_path, "train", {"a.mp4": list(clips)})
    return tmp_path


def records(root: Path) -> list[ClipRecord]:
    index = open_index(root)
    return [index.record(row) for row in range(len(index))]


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


def test_a_shard_is_an_ordinary_tar_file_of_ordinary_numpy_files(root: Path, clips: np.ndarray, tmp_path: Path) -> None:
    names = [f"000000-{number:06d}.npy" for number in range(3)]
    listed = subprocess.run(["tar", "tf", root / SHARD], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == names and not listed.stderr
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "xf", root / SHARD, "-C", tmp_path / "unpacked"], check=True)
    np.testing.assert_array_equal([np.load(tmp_path / "unpacked" / name) for name in names], clips)


def test_a_shard_can_be_read_as_a_stream_in_one_pass_as_webdataset_readers_do(root: Path, clips: np.ndarray) -> None:
    with tarfile.open(root / SHARD, "r|") as stream:
        for clip, member in zip(clips, stream, strict=True):
            assert member.isreg() and member.name.count(".") == 1
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
            file = stream.extractfile(member)
            assert file is not None
            np.testing.assert_array_equal(np.load(io.BytesIO(file.read())), clip)


def test_equal_clips_give_equal_bytes(root: Path, clips: np.ndarray, tmp_path: Path) -> None:
    write_clips(tmp_path / "again", "train", {"a.mp4": list(clips)})
    for name in (SHARD, "index.arrow", "shards.csv"):
        assert (root / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_each_clip_lies_where_the_index_says(root: Path, clips: np.ndarray) -> None:
    content = (root / SHARD).read_bytes()
    for record, clip in zip(records(root), clips, strict=True):
        member = content[record.offset : record.offset + record.length]
        assert member.endswith(clip.tobytes()) and member.startswith(b"\x93NUMPY")
        assert (record.offset + record.length - clip.nbytes) % 64 == 0


def test_the_index_gives_back_plain_numbers_and_texts(root: Path) -> None:
    for record in records(root):
        for value in dataclasses.astuple(record):
            assert type(value) in (int, str)


def test_the_index_can_be_exported_as_parquet(root: Path) -> None:
    open_index(root).export_parquet(root / "index.parquet")
    table = pyarrow.parquet.read_table(root / "index.parquet").to_pylist()
    assert [row["offset"] for row in table] == [record.offset for record in records(root)]
    assert [row["sha256"].hex() for row in table] == [record.sha256 for record in records(root)]


def test_a_process_keeps_few_shards_open_however_many_it_reads(
    tmp_path: Path, clips: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_shards, "MOST_OPEN", 2)
    store = write_clips(tmp_path, "train", {f"{number}.mp4": [clips[number % 3]] for number in range(7)})
    read = [store.clip(clip_id) for clip_id in (0, 1, 2, 3, 4, 5, 6, 0)]
    assert isinstance(store._shards, clip_shards.OpenShards)
    assert len(store._shards) == 2
    np.testing.assert_array_equal(read, [clips[number % 3] for number in (0, 1, 2, 3, 4, 5, 6, 0)])


def flip_a_byte(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(bytes(data))


def flip_a_pixel(root: Path, clip_id: int) -> None:
    record = records(root)[clip_id]
    flip_a_byte(root / record.shard, record.offset + record.length - 1)


def test_verify_finds_a_flipped_byte_and_names_the_file_and_the_way_out(root: Path) -> None:
    flip_a_pixel(root, 2)
    place = records(root)[2].offset
    message = rf"{SHARD} is damaged: the clip at byte {place} .*dvc checkout (?s:.*)dvc repro -f"
    with pytest.raises(StoreError, match=message):
        ClipStore.open(root, "train").verify()


def test_a_flipped_byte_is_found_when_its_clip_is_first_used_unless_that_is_switched_off(root: Path) -> None:
    flip_a_pixel(root, 2)
    store = ClipStore.open(root, "train")
    store.clip(0)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"the clip at byte \d+ does not match its checksum"):
            store.clip(2)
    ClipStore.open(root, "train", verify_reads=False).clip(2)


@pytest.mark.parametrize("place", [0, 20, 70, 127])
def test_a_flipped_byte_of_a_clips_own_header_is_found_when_it_is_used(root: Path, place: int) -> None:
    flip_a_byte(root / SHARD, records(root)[1].offset + place)
    store = ClipStore.open(root, "train", verify_reads=False)
    store.clip(0)
    with pytest.raises(
        StoreError, match=r"is damaged: the clip at byte \d+: it is not the \.npy file of a clip of 5x3x4x6"
    ):
        store.clip(1)


@pytest.mark.parametrize("codec", ["lossless", "near-lossless"])
def test_clips_stored_as_video_are_read_back_whole_and_in_parts(tmp_path: Path, codec: ClipCodecName) -> None:
    clips = [moving_pattern(seed) for seed in range(3)]
    store = write_clips(tmp_path, "train", {"a.mp4": clips}, codec)
    part = (slice(2, 11, 3), slice(4, 20), slice(1, 9))
    for clip_id, clip in enumerate(clips):
        first_use, again = store.clip(clip_id, part), store.clip(clip_id, part)
        whole = store.clip(clip_id)
        assert psnr_db(clip, whole) > (48 if codec == "near-lossless" else 1000)
        np.testing.assert_array_equal(first_use, whole[part[0], :, part[1], part[2]])
        np.testing.assert_array_equal(again, first_use)
    assert {record.codec for record in store.records} == {codec}
    store.verify()


@pytest.mark.parametrize("codec", ["lossless", "near-lossless"])
def test_a_shard_of_videos_is_a_tar_file_of_videos_that_any_player_shows(tmp_path: Path, codec: ClipCodecName) -> None:
    clips = [moving_pattern(seed) for seed in range(2)]
    store = write_clips(tmp_path / "store", "train", {"a.mp4": clips}, codec)
    with tarfile.open(tmp_path / "store" / SHARD, "r|") as stream:
        stream.extractall(tmp_path / "unpacked", filter="data")
    for clip_id in range(2):
        (shown,) = open_video(tmp_path / f"unpacked/000000-{clip_id:06d}.mp4").batches(100)
        np.testing.assert_array_equal(shown, store.clip(clip_id))


@pytest.mark.parametrize("codec", ["lossless", "near-lossless"])
def test_whatever_bit_of_a_clip_stored_as_video_flips_it_is_found(tmp_path: Path, codec: ClipCodecName) -> None:
    store = write_clips(tmp_path, "train", {"a.mp4": [moving_pattern(0)]}, codec)
    (record,), clip = store.records, store.clip(0).copy()
    shard = tmp_path / SHARD
    intact = shard.read_bytes()
    found = 0
    for place in range(record.offset, record.offset + record.length, max(record.length // 100, 1)):
        shard.write_bytes(intact)
        flip_a_byte(shard, place)
        try:
            # A few bits say nothing about the pixels, such as at which rate a player shows them.
            np.testing.assert_array_equal(ClipStore.open(tmp_path, "train").clip(0), clip)
        except StoreError as error:
            assert "is damaged: the clip at byte" in str(error)
            found += 1
    assert found > 60


def test_the_contents_of_every_file_can_be_compared_with_the_list(root: Path) -> None:
    files = StoreFiles.read(root)
    files.check_contents(files.shards.values())
    flip_a_byte(root / SHARD, 3)  # in the name of a member, which no reader of ours looks at
    with pytest.raises(StoreError, match="its sha256 is not the one in shards.csv"):
        files.check_contents(files.shards.values())


@pytest.mark.parametrize("name", ["index.arrow", "shards.csv"])
def test_whatever_bit_of_the_index_or_the_list_flips_the_store_says_one_clear_thing(root: Path, name: str) -> None:
    file = root / name
    intact, described = file.read_bytes(), StoreFiles.read(root).sha256_with("t")
    for number, place in enumerate(range(0, len(intact), max(len(intact) // 200, 1))):
        damaged = bytearray(intact)
        damaged[place] ^= 1 << number % 8
        file.write_bytes(damaged)
        try:
            store = ClipStore.open(root, "train")
        except StoreError as error:
            assert "Traceback" not in str(error)
        else:
            # A number of clips that nobody counts by, or the sha256 of a shard: the dataset's hash finds it.
            assert name == "shards.csv"
            assert StoreFiles.read(root).sha256_with("t") != described
            store.verify()


def test_a_clip_is_compared_with_its_checksum_once(root: Path) -> None:
    store = ClipStore.open(root, "train")
    store.clip(2)
    with (root / SHARD).open("r+b") as shard:
        shard.seek(records(root)[2].offset + 200)
        shard.write(b"other")
    store.clip(2)
    with pytest.raises(StoreError):
        store.verify()


def test_a_split_without_clips_cannot_be_opened(root: Path) -> None:
    with pytest.raises(StoreError, match="lists no val clips"):
        ClipStore.open(root, "val")


def test_a_missing_store_index_or_shard_is_one_clear_error_at_the_start(root: Path) -> None:
    with pytest.raises(StoreError, match=r"shards\.csv cannot be read"):
        ClipStore.open(root / "nowhere", "train")
    (root / "index.arrow").rename(root / "elsewhere")
    with pytest.raises(StoreError, match=r"index\.arrow cannot be read"):
        ClipStore.open(root, "train")
    (root / "elsewhere").rename(root / "index.arrow")
    (root / SHARD).unlink()
    with pytest.raises(StoreError, match=r"train-000000\.tar cannot be read"):
        ClipStore.open(root, "train")


@pytest.mark.parametrize("kept", [0, 5, 512, 640, 1000, -1])
def test_a_cut_off_shard_is_one_clear_error_at_the_start_and_never_a_bus_error(root: Path, kept: int) -> None:
    shard = root / SHARD
    shard.write_bytes(shard.read_bytes()[:kept])
    done = subprocess.run([sys.executable, "-c", OPENING, str(root)], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"error: {shard} is damaged: it has ")
    assert "Traceback" not in done.stderr


def test_only_the_shards_of_the_opened_split_must_be_there(root: Path, clips: np.ndarray, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_clips(other, "val", {"b.mp4": list(clips)})
    shutil.copy(other / "val-000000.tar", root)
    files = StoreFiles.read(root)
    held_out = StoreFiles.read(other).shards["val-000000.tar"]
    StoreFiles(root, [files.index, *files.shards.values(), held_out]).write()
    replace_index(root, [*records(root), *records(other)])
    (root / "val-000000.tar").unlink()
    ClipStore.open(root, "train").verify()
    with pytest.raises(StoreError, match=r"val-000000\.tar cannot be read"):
        ClipStore.open(root, "val")


@pytest.mark.parametrize("shard", ["../train-000000.tar", "/etc/passwd", "train-000001.tar"])
def test_an_index_that_names_files_which_are_no_shards_of_the_store_is_refused(root: Path, shard: str) -> None:
    replace_index(root, [dataclasses.replace(record, shard=shard) for record in records(root)])
    with pytest.raises(StoreError, match="do not belong together"):
        ClipStore.open(root, "train")


@pytest.mark.parametrize("name", ["../train-000000.tar", "/etc/passwd", "train-1.tar", "train-000000.tar.gz"])
def test_a_list_that_names_files_which_are_no_shards_is_refused(root: Path, name: str) -> None:
    listed = root / "shards.csv"
    listed.write_text(listed.read_text().replace(SHARD, name))
    with pytest.raises(StoreError, match="names a file that is no shard"):
        ClipStore.open(root, "train")


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 0},
        {"offset": -512},
        {"offset": 10**9},
        {"length": 10**9},
        {"length": 3},
        {"height": 5},
        {"frames": 4},
        {"codec": "strange"},
    ],
)
def test_an_index_that_contradicts_the_shards_is_one_clear_error_when_the_clip_is_read(
    root: Path, change: dict[str, Any]
) -> None:
    first, *others = records(root)
    replace_index(root, [dataclasses.replace(first, **change), *others])
    store = ClipStore.open(root, "train", verify_reads=False)
    store.clip(1)
    with pytest.raises(StoreError, match=rf"{SHARD} (is damaged: the clip at byte|has a clip in 'strange')"):
        store.clip(0)


PROFILE = load_profile("local", REPOSITORY / "profiles")


def test_the_files_must_be_those_that_dataset_json_describes(root: Path) -> None:
    store = root.parent / "data/clips"
    shutil.copytree(root, store)
    dataset = store.with_name("dataset.json")
    good = {"teacher_sha256": "t", "dataset_sha256": StoreFiles.read(store).sha256_with("t"), "shards_at": None}
    dataset.write_text(json.dumps(good))
    Dataset.open(dataset).split("train", PROFILE)
    first, *others = records(store)
    replace_index(store, [dataclasses.replace(first, sha256="0" * 64), *others])
    with pytest.raises(StoreError, match=r"shards\.csv is not the list of files that .*dataset\.json describes"):
        Dataset.open(dataset).split("train", PROFILE)
    for bad in ("{", "[]", "{}"):
        dataset.write_text(bad)
        with pytest.raises(StoreError, match=r"dataset\.json cannot be read.* dvc checkout --force"):
            Dataset.open(dataset)


def test_an_index_of_another_version_is_refused(root: Path) -> None:
    with pyarrow.OSFile(str(root / "index.arrow"), "wb") as file:
        table = pyarrow.table({"shard": [SHARD]})
        with pyarrow.ipc.new_file(file, table.schema.with_metadata({"taehv": '{"version": 2}'})) as writer:
            writer.write_table(table)
    with pytest.raises(ValueError, match="another version"):
        ClipIndex.open(root / "index.arrow")
