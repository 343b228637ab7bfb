from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.clip_stores import write_clips

from taehv.data.clip_store import ClipStore
from taehv.data.loader import SlotLoader
from taehv.data.sampler import SlotSampler, load_slots
from taehv.data.store_files import StoreError


@pytest.fixture
def store(tmp_path: Path) -> ClipStore:
    clips = np.random.default_rng(0).integers(0, 256, (6, 4, 3, 16, 16), dtype=np.uint8)
    return write_clips(tmp_path, "train", {"a.mp4": list(clips[:3]), "b.mp4": list(clips[3:])})


@pytest.fixture
def sampler(store: ClipStore) -> SlotSampler:
    return SlotSampler(store.columns(), seed=1, global_batch=4, height=8, width=8, frames=3, horizontal_flip=True)


def test_any_order_of_steps_gives_each_the_same_clips(store: ClipStore, sampler: SlotSampler) -> None:
    loader = SlotLoader(store, sampler, range(1, 3), torch.device("cpu"))
    for step in (1, 2, 3, 7, 2, 3):
        expected = load_slots(store, [sampler.draw(step, slot) for slot in (1, 2)], 8, 8, 3)
        assert torch.equal(loader.frames(step), expected)
        loader._ahead[1].result()  # type: ignore[index]  # the store is for one thread at a time
    loader.close()


def test_clips_are_read_and_compared_with_their_checksums_in_another_thread(
    store: ClipStore, sampler: SlotSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[threading.Thread] = set()
    verify = ClipStore._verify

    def noted(self: ClipStore, *clip: object) -> None:
        threads.add(threading.current_thread())
        verify(self, *clip)  # type: ignore[arg-type]

    monkeypatch.setattr(ClipStore, "_verify", noted)
    loader = SlotLoader(store, sampler, range(4), torch.device("cpu"))
    for step in (1, 2, 5):
        loader.frames(step)
    loader.close()
    assert len(threads) == 1 and threading.main_thread() not in threads


def test_a_damaged_clip_ends_the_step_that_shows_it(store: ClipStore, sampler: SlotSampler) -> None:
    record = store.record(sampler.draw(2, 0).clip_id)
    with (store.root / record.shard).open("r+b") as shard:
        shard.seek(record.offset + record.length - 100)
        shard.write(bytes(100))
    loader = SlotLoader(store, sampler, range(1), torch.device("cpu"))
    with pytest.raises(StoreError, match="does not match its checksum"):
        for step in (1, 2):
            loader.frames(step)
    loader.close()


def test_what_a_step_waits_for_its_clips_is_counted_and_reading_ahead_is_not(
    store: ClipStore, sampler: SlotSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ClipStore.clip

    def slow(self: ClipStore, clip_id: int) -> object:
        time.sleep(0.3)
        return read(self, clip_id)

    monkeypatch.setattr(ClipStore, "clip", slow)
    loader = SlotLoader(store, sampler, range(1), torch.device("cpu"))
    loader.frames(1)
    first = loader.seconds_waited
    assert first >= 0.3
    loader._ahead[1].result()  # type: ignore[index]  # as if the step took long
    loader.frames(2)
    assert loader.seconds_waited - first < 0.2
    loader.close()
