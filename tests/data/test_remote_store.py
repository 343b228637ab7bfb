"""A dataset whose clips are in an object store: made, checked and read as one on the disk is."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import numpy as np
import pytest
from support.object_store import BUCKET, s3_server
from support.project import REPOSITORY
from support.video_files import list_videos, numbered_video, small_params

from taehv.config.profiles import load_profile
from taehv.data.dataset import Dataset
from taehv.data.prepare import prepare
from taehv.data.remote_shards import RemoteStoreError
from taehv.data.splits import SPLITS

URL = f"s3://{BUCKET}/my/dataset"
PROFILE = load_profile("local", REPOSITORY / "profiles").model_copy(update={"workers": 1})


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as monkeypatch, s3_server(monkeypatch):
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield boto3.client("s3")


@pytest.fixture
def prepared(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dataset]:
    """In the working directory, from two videos."""
    monkeypatch.chdir(tmp_path)
    Path("videos").mkdir()
    for name in ("a.mkv", "b.mkv"):
        numbered_video(Path("videos") / name, frames=60, first=60 * (name == "b.mkv"))
    list_videos(["a.mkv", "b.mkv"])
    prepare(small_params(store={"url": URL}), PROFILE)
    yield Dataset.open()
    for found in server.list_objects_v2(Bucket=BUCKET, Prefix="my/").get("Contents", []):
        server.delete_object(Bucket=BUCKET, Key=found["Key"])


def objects(server: Any) -> dict[str, int]:
    found = server.list_objects_v2(Bucket=BUCKET, Prefix="my/").get("Contents", [])
    return {entry["Key"].rpartition("/")[2]: entry["Size"] for entry in found}


def test_the_shards_are_in_the_store_and_only_their_list_and_the_index_are_here(prepared: Dataset, server: Any) -> None:
    assert sorted(file.name for file in Path("data/clips").iterdir()) == ["index.arrow", "shards.csv"]
    assert objects(server) == {f"{shard.sha256}.tar": shard.bytes for shard in prepared.files.shards.values()}


def test_it_is_the_same_dataset_as_on_the_disk_clip_by_clip(prepared: Dataset) -> None:
    remote = {split: prepared.split(split, PROFILE) for split in SPLITS}
    prepare(small_params(), PROFILE)
    local = Dataset.open()
    assert local.sha256 == prepared.sha256
    for split, store in remote.items():
        here = local.split(split, PROFILE)
        assert len(here) == len(store) > 0
        assert all(np.array_equal(here.clip(number), store.clip(number)) for number in range(len(here)))


def test_made_again_nothing_is_uploaded_again(prepared: Dataset, server: Any) -> None:
    before = server.list_objects_v2(Bucket=BUCKET, Prefix="my/")["Contents"]
    prepare(small_params(store={"url": URL}), PROFILE)
    assert server.list_objects_v2(Bucket=BUCKET, Prefix="my/")["Contents"] == before


def test_a_second_reading_needs_no_store(prepared: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    store = prepared.split("train", PROFILE)
    first = store.clip(0).copy()
    remote = prepared.remote(PROFILE)
    assert remote is not None
    gone = dataclasses.replace(remote, url=f"s3://{BUCKET}/elsewhere")
    monkeypatch.setattr(store, "_shards", gone)
    assert np.array_equal(store.clip(0), first)


def test_a_mirror_is_named_by_the_environment(prepared: Dataset, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for shard in prepared.files.shards.values():
        key = f"my/dataset/{shard.sha256}.tar"
        server.copy_object(Bucket=BUCKET, Key=f"mirror/{shard.sha256}.tar", CopySource={"Bucket": BUCKET, "Key": key})
        server.delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(RemoteStoreError, match="lacks .* shards.*TAEHV_STORE_URL"):
        prepared.split("train", PROFILE)
    monkeypatch.setenv("TAEHV_STORE_URL", f"s3://{BUCKET}/mirror")
    assert prepared.split("train", PROFILE).clip(0).any()


def test_a_damaged_object_is_found_when_a_clip_of_it_is_read(prepared: Dataset, server: Any) -> None:
    record = prepared.split("train", PROFILE).record(0)
    shard = prepared.files.shards[record.shard]
    key = f"my/dataset/{shard.sha256}.tar"
    content = bytearray(server.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    content[record.offset + record.length - 1] ^= 1
    server.put_object(Bucket=BUCKET, Key=key, Body=bytes(content))
    shutil.rmtree(".work/clips")  # where prepare_data has read it for the teacher
    store = prepared.split("train", PROFILE)
    with pytest.raises(
        RemoteStoreError, match=f"{record.shard} is damaged.*{shard.sha256}.tar.*dvc repro -f prepare_data"
    ):
        store.clip(0)


def test_a_start_finds_an_object_that_is_missing_or_cut_off(prepared: Dataset, server: Any) -> None:
    shard = prepared.files.of_split("val")[0]
    server.put_object(Bucket=BUCKET, Key=f"my/dataset/{shard.sha256}.tar", Body=b"half")
    with pytest.raises(RemoteStoreError, match=f"lacks 1 shards.*{shard.name}"):
        prepared.split("val", PROFILE)


def test_where_the_shards_are_does_not_change_the_datasets_hash(prepared: Dataset) -> None:
    facts = json.loads(Path("data/dataset.json").read_text())
    assert facts["shards_at"] == URL
    assert facts["dataset_sha256"] == prepared.files.sha256_with(facts["teacher_sha256"])
