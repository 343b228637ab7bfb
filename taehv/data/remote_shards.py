"""Shards of clips in an object store: written under the name of their content, read in ranges through a local cache.

The place is an fsspec URL (``s3://bucket/folder``, ``gs://bucket/folder``, ``file:///folder``); credentials and
endpoints come from where that store's own tools take them (``AWS_PROFILE``, ``AWS_ENDPOINT_URL``, ...). A shard is the
object ``<its sha256>.tar``: it is never overwritten by another one, an upload that was cut off goes on, and two
datasets that share a shard store it once.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from taehv.config.profiles import Profile
from taehv.data.clip_shards import ShardFile
from taehv.runtime import paths
from taehv.runtime.errors import UserError

if TYPE_CHECKING:
    from diskcache import Cache
    from fsspec import AbstractFileSystem

_DIGEST_BYTES = hashlib.sha256().digest_size
_ELSEWHERE = (
    "If the shards lie elsewhere, name that place in TAEHV_STORE_URL; otherwise upload them with: "
    "dvc repro -f prepare_data"
)
CACHE = Path(".work/clips")
"""Below the main repository, where the profile names no other place."""
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 1.0, 60.0

ResultT = TypeVar("ResultT")


class RemoteStoreError(UserError):
    """The object store does not answer, or does not have what it should; the message says what to do."""


PLACE_VARIABLE = "TAEHV_STORE_URL"
"""Another place of the same shards than the one where prepare_data put them: a mirror near the other machine."""


def object_name(shard: ShardFile) -> str:
    """What a shard is called in the store."""
    return f"{shard.sha256}.tar"


@dataclass(frozen=True)
class RemoteShards:
    """The shards at a URL. Opened by whichever process first reads: clients of object stores do not survive a fork."""

    url: str
    """An fsspec URL of a folder."""
    files: Mapping[str, ShardFile]
    """The shards by name."""
    cache: Path
    """A folder on a local disk (it holds a small database, which network file systems do not lock well)."""
    cache_bytes: int
    """About how much of it may be used; the ranges that were not read for longest go first."""
    patience_seconds: float = 600.0
    """How long a store that does not answer is asked again, before the training ends (and can be resumed)."""

    @classmethod
    def of(cls, url: str, files: Mapping[str, ShardFile], profile: Profile) -> RemoteShards:
        """The shards at ``url``, or at the place that TAEHV_STORE_URL names, with the profile's cache."""
        cache = paths.main_repository() / CACHE if profile.store_cache is None else Path(profile.store_cache)
        return cls(os.environ.get(PLACE_VARIABLE) or url, files, cache, round(profile.store_cache_gb * 10**9))

    def bytes_of(self, name: str, offset: int, length: int) -> npt.NDArray[np.uint8]:
        """A part of the named shard, as ``read`` gives it; read-only.

        Raises:
            RemoteStoreError: as ``read``.
        """
        return np.frombuffer(self.read(self.files[name], offset, length), dtype=np.uint8)

    def check(self, shards: Iterable[ShardFile]) -> None:
        """Compare the store's listing with what is wanted; no content is read.

        Raises:
            RemoteStoreError: a shard is missing or has another size, or the store does not answer.
        """
        absent = self.absent(shards)
        if absent:
            raise RemoteStoreError(
                f"{self.url} lacks {len(absent)} shards, or has them with another size; the first is "
                f"{absent[0].name} ({object_name(absent[0])}). {_ELSEWHERE}"
            )

    def damaged(self, name: str, problem: str) -> RemoteStoreError:
        """The error for a shard whose content is not what was uploaded."""
        place = f"{self.url}/{object_name(self.files[name])}"
        return RemoteStoreError(
            f"{name} {problem} ({place}). Delete it there, and put it there again from a copy, or with: "
            f"dvc repro -f prepare_data. A copy of it may be cached in {self.cache}"
        )

    def read(self, shard: ShardFile, offset: int, length: int) -> bytes:
        """``length`` bytes of a shard, from ``offset`` on.

        A range in the cache is compared with its checksum, and read again where the disk has damaged it. What the
        object store itself returns is not: the clip in it has a checksum of its own.

        Raises:
            RemoteStoreError: the shard is not there, is shorter, may not be read, or nobody has answered for long.
        """
        key = f"{shard.sha256}:{offset}:{length}"
        cached = self._cached(key)
        if cached is not None:
            return cached
        payload = self._patiently(
            f"reading {object_name(shard)}",
            lambda: self._filesystem.cat_file(self._place(shard), start=offset, end=offset + length),
        )
        if len(payload) != length:
            raise RemoteStoreError(
                f"{self.url}/{object_name(shard)} has {len(payload):,} bytes from {offset:,} on, {length:,} are "
                "wanted: it is not whole. Delete it there and run: dvc repro -f prepare_data"
            )
        self._remember(key, payload)
        return bytes(payload)

    def upload(self, files: Iterable[tuple[Path, ShardFile]]) -> None:
        """Store each shard that is not there yet whole; a start after a crash goes on where that one ended.

        Raises:
            RemoteStoreError: an object cannot be written, or has another size afterwards.
        """
        for file, shard in files:
            what = f"writing {object_name(shard)}"
            if not self.has(shard):
                self._patiently(what, functools.partial(self._put, file, shard))
            size = self._size(shard)
            if size != shard.bytes:
                raise RemoteStoreError(
                    f"{self.url}/{object_name(shard)} has {size} bytes after its upload, {shard.bytes:,} were sent; "
                    "run the same command again, and look into the store's log if it happens twice"
                )

    def has(self, shard: ShardFile) -> bool:
        """Whether the store has this shard, whole, by its size; one question about one object.

        Raises:
            RemoteStoreError: the store does not answer, or refuses.
        """
        return self._size(shard) == shard.bytes

    def absent(self, shards: Iterable[ShardFile]) -> list[ShardFile]:
        """The shards that the store does not have, or not whole, by their sizes; one listing, no content is read.

        Raises:
            RemoteStoreError: the store does not answer, or may not be listed.
        """
        listing = self._patiently("listing", self._listing)
        return [shard for shard in shards if listing.get(object_name(shard)) != shard.bytes]

    @property
    def _filesystem(self) -> AbstractFileSystem:
        import fsspec

        try:  # fsspec keeps the client, one for each process
            filesystem, _ = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise RemoteStoreError(
                f"data.store.url {self.url} cannot be used: {error}. For s3:// install s3fs, for gs:// gcsfs, each in "
                "the version of fsspec in requirements.lock"
            ) from error
        return filesystem

    @cached_property
    def _ranges(self) -> Cache:
        from diskcache import Cache

        self.cache.mkdir(parents=True, exist_ok=True)
        return Cache(str(self.cache), size_limit=self.cache_bytes, eviction_policy="least-recently-used")

    def _place(self, shard: ShardFile) -> str:
        folder: str = self._filesystem._strip_protocol(self.url)
        return f"{folder}/{object_name(shard)}"

    def _put(self, file: Path, shard: ShardFile) -> None:
        self._filesystem.makedirs(self._filesystem._parent(self._place(shard)), exist_ok=True)
        self._filesystem.put_file(str(file), self._place(shard))
        self._filesystem.invalidate_cache()

    def _size(self, shard: ShardFile) -> int | None:
        """Of the object; None where there is none."""

        def ask() -> int | None:
            self._filesystem.invalidate_cache()
            try:
                return int(self._filesystem.info(self._place(shard))["size"])
            except FileNotFoundError:
                return None

        return self._patiently(f"looking for {object_name(shard)}", ask)

    def _listing(self) -> dict[str, int]:
        self._filesystem.invalidate_cache()
        try:
            found = self._filesystem.ls(self._filesystem._strip_protocol(self.url), detail=True)
        except FileNotFoundError:
            return {}
        return {str(entry["name"]).rpartition("/")[2]: int(entry["size"]) for entry in found}

    def _cached(self, key: str) -> bytes | None:
        stored = self._with_cache(lambda ranges: ranges.get(key))
        if not isinstance(stored, bytes):
            return None
        digest, payload = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() == digest:
            return payload
        print(f"{self.cache}: a cached range is damaged; it is read from {self.url} again", file=sys.stderr)
        return None

    def _remember(self, key: str, payload: bytes) -> None:
        self._with_cache(lambda ranges: ranges.set(key, hashlib.sha256(payload).digest() + payload))

    def _with_cache(self, use: Callable[[Cache], object]) -> object:
        """Read or write the cache. Training goes on where that cannot be done: it is slower, not wrong."""
        if not self.cache_bytes:
            return None
        try:
            return use(self._ranges)
        except (OSError, sqlite3.Error) as error:
            print(f"{self.cache} cannot be used, all is read from {self.url}: {error}", file=sys.stderr)
            return None

    def _patiently(self, what: str, ask: Callable[[], ResultT]) -> ResultT:
        """The answer; a store that gives none is asked again, at growing intervals, until the patience is over."""
        wait, until = _FIRST_WAIT_SECONDS, time.monotonic() + self.patience_seconds
        while True:
            try:
                return ask()
            except RemoteStoreError:
                raise
            except FileNotFoundError as error:
                raise RemoteStoreError(f"{what}: {self.url} does not have it ({error}). {_ELSEWHERE}") from error
            except PermissionError as error:
                raise RemoteStoreError(f"{what}: {self.url} refuses it ({error}). Check the credentials") from error
            # Clients of object stores raise errors of their own, which have no base class in common.
            except Exception as error:
                if time.monotonic() + wait > until:
                    raise RemoteStoreError(
                        f"{what}: {self.url} has not answered for {self.patience_seconds:.0f} s ({error!r}). Check the "
                        "network, the credentials and the endpoint, and run the same command again"
                    ) from error
                print(f"{what}: {self.url} does not answer ({error!r}); again in {wait:.0f} s", file=sys.stderr)
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
