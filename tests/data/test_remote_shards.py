"""Shards in an object store, against a real S3 server on loopback."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from support.object_store import BUCKET, s3_server

from taehv.data.clip_shards import ShardFile
from taehv.data.remote_shards import RemoteShards, RemoteStoreError

CONTENT = os.urandom(200_000)
SHARD = ShardFile("train-000000.tar", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), clips=3)
FILES = {SHARD.name: SHARD}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as monkeypatch, s3_server(monkeypatch) as address:
        yield address


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, server: str, tmp_path: Path) -> str:
    fsspec.get_filesystem_class(request.param).clear_instance_cache()
    return f"s3://{BUCKET}/{tmp_path.name}" if request.param == "s3" else (tmp_path / "bucket").as_uri()


@pytest.fixture
def shards(url: str, tmp_path: Path) -> RemoteShards:
    return RemoteShards(url, FILES, tmp_path / "cache", cache_bytes=10**6, patience_seconds=0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "train-000000.tar"
    file.write_bytes(CONTENT)
    return file


class TestUpload:
    def test_a_shard_is_stored_under_its_content(self, shards: RemoteShards, file: Path) -> None:
        assert shards.absent([SHARD]) == [SHARD]
        shards.upload([(file, SHARD)])
        assert shards.absent([SHARD]) == []
        assert shards.read(SHARD, 0, SHARD.bytes) == CONTENT

    def test_what_is_there_is_not_sent_again(self, shards: RemoteShards, file: Path) -> None:
        shards.upload([(file, SHARD)])
        file.unlink()
        shards.upload([(file, SHARD)])

    def test_half_an_upload_is_sent_again(self, shards: RemoteShards, file: Path) -> None:
        half = file.with_name("half")
        half.write_bytes(CONTENT[:1000])
        shards._put(half, SHARD)
        assert shards.absent([SHARD]) == [SHARD]
        shards.upload([(file, SHARD)])
        assert shards.read(SHARD, 0, SHARD.bytes) == CONTENT

    def test_a_file_that_is_not_the_shard_is_an_error(self, shards: RemoteShards, file: Path) -> None:
        file.write_bytes(CONTENT[:1000])
        with pytest.raises(RemoteStoreError, match="1000 bytes after its upload"):
            shards.upload([(file, SHARD)])


class TestRead:
    def test_a_range_is_read_as_it_is_in_the_file(self, shards: RemoteShards, file: Path) -> None:
        shards.upload([(file, SHARD)])
        assert shards.read(SHARD, 512, 40_000) == CONTENT[512:40_512]

    def test_a_range_is_fetched_once(self, shards: RemoteShards, file: Path, tmp_path: Path) -> None:
        shards.upload([(file, SHARD)])
        first = shards.read(SHARD, 512, 40_000)
        elsewhere = RemoteShards(f"{shards.url}-gone", FILES, shards.cache, shards.cache_bytes, patience_seconds=0)
        assert elsewhere.read(SHARD, 512, 40_000) == first

    def test_a_damaged_cache_is_fetched_again(
        self, shards: RemoteShards, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shards.upload([(file, SHARD)])
        shards.read(SHARD, 0, 40_000)
        [cached] = shards.cache.rglob("*.val")
        damaged = bytearray(cached.read_bytes())
        damaged[5000] ^= 1
        cached.write_bytes(damaged)
        assert shards.read(SHARD, 0, 40_000) == CONTENT[:40_000]
        assert "damaged" in capsys.readouterr().err

    def test_the_cache_stays_small(self, shards: RemoteShards, file: Path) -> None:
        shards.upload([(file, SHARD)])
        for offset in range(0, 150_000, 1000):
            shards.read(SHARD, offset, 40_000)
        assert sum(path.stat().st_size for path in shards.cache.rglob("*.val")) < 1.5e6

    def test_without_a_cache_nothing_is_written(self, url: str, file: Path, tmp_path: Path) -> None:
        shards = RemoteShards(url, FILES, tmp_path / "cache", cache_bytes=0, patience_seconds=0)
        shards.upload([(file, SHARD)])
        shards.read(SHARD, 0, 100)
        assert not (tmp_path / "cache").exists()

    def test_a_cache_that_cannot_be_used_is_said_and_reading_goes_on(
        self, shards: RemoteShards, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shards.upload([(file, SHARD)])
        shards.read(SHARD, 0, 10)
        shards._ranges.close()
        for part in shards.cache.glob("cache.db*"):
            part.write_bytes(b"no database" * 1000)
        assert shards.read(SHARD, 100, 100) == CONTENT[100:200]
        assert "cannot be used" in capsys.readouterr().err

    def test_an_absent_shard_is_an_error_that_says_what_to_do(self, shards: RemoteShards) -> None:
        with pytest.raises(RemoteStoreError, match="does not have it.*TAEHV_STORE_URL.*dvc repro -f prepare_data"):
            shards.read(SHARD, 0, 100)

    def test_a_shorter_shard_is_an_error(self, shards: RemoteShards, file: Path) -> None:
        shards.upload([(file, SHARD)])
        with pytest.raises(RemoteStoreError, match="it is not whole"):
            shards.read(SHARD, SHARD.bytes - 10, 100)


class _Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(403)
        self.end_headers()
        self.wfile.write(b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")


class TestAStoreThatDoesNotAnswer:
    def test_it_is_asked_again_until_it_does(
        self, server: str, file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        RemoteShards(f"s3://{BUCKET}/patient", FILES, tmp_path / "cache", 0).upload([(file, SHARD)])
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            shards = RemoteShards(f"s3://{BUCKET}/patient", FILES, tmp_path / "cache", 0, patience_seconds=300)
            with ThreadPoolExecutor() as reader, ExitStack() as later:
                reading = reader.submit(shards.read, SHARD, 0, 100)
                said = ""
                while "does not answer" not in said:
                    said += capfd.readouterr().err
                    assert not reading.done()
                later.enter_context(s3_server(monkeypatch, port))
                assert reading.result() == CONTENT[:100]

    def test_in_the_end_it_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        shards = RemoteShards(f"s3://{BUCKET}/nobody", FILES, tmp_path / "cache", 0, patience_seconds=0)
        with pytest.raises(RemoteStoreError, match="has not answered.*network"):
            shards.read(SHARD, 0, 100)

    def test_a_refusal_is_said_at_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as refusing:
            threading.Thread(target=refusing.serve_forever).start()
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{refusing.server_port}")
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            shards = RemoteShards(f"s3://{BUCKET}/forbidden", FILES, tmp_path / "cache", 0, patience_seconds=600)
            with pytest.raises(RemoteStoreError, match="Check the credentials"):
                shards.read(SHARD, 0, 100)
            refusing.shutdown()

    def test_an_unknown_kind_of_store_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(RemoteStoreError, match="cannot be used"):
            RemoteShards("nothing://bucket", FILES, tmp_path, 0).read(SHARD, 0, 1)
