"""Reading ahead: by a thread or by processes, the same clips in the same order."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from support.clip_stores import moving_pattern, write_clips

from taehv.config.params import ClipCodecName
from taehv.data.clip_store import ClipStore
from taehv.data.loader import SlotLoader
from taehv.data.reader_processes import STEPS_AHEAD
from taehv.data.sampler import SlotSampler
from taehv.data.store_files import StoreError
from taehv.runtime.errors import UserError

pytestmark = pytest.mark.slow


def write_store(root: Path, codec: ClipCodecName = "near-lossless") -> ClipStore:
    return write_clips(root, "train", {f"{source}.mp4": [moving_pattern(source)] for source in range(5)}, codec)


def loader(store: ClipStore, workers: int) -> SlotLoader:
    sampler = SlotSampler(
        store.columns(), seed=1, global_batch=4, height=16, width=16, frames=5, horizontal_flip=True, strides=(1, 2)
    )
    return SlotLoader(store, sampler, range(1, 4), torch.device("cpu"), workers)


def readers(parent: int | None = None) -> list[psutil.Process]:
    """The living processes that read for ``parent``, or for this one."""
    found = []
    for child in psutil.Process(parent).children():
        with contextlib.suppress(psutil.Error):
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ClipStore]:
    yield write_store(tmp_path)
    _, alive = psutil.wait_procs(readers(), timeout=30)
    assert not alive, "a closed loader leaves no process"


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_read_what_the_thread_reads_in_any_order_of_steps(store: ClipStore, workers: int) -> None:
    steps = [5, 6, 7, 8, 7, 100, 101, 3, 4, 5, 6, 8, 9]
    with closing(loader(store, 0)) as thread, closing(loader(store, workers)) as processes:
        for step in steps:
            assert torch.equal(processes.frames(step), thread.frames(step)), step
        assert len(readers()) == workers


def test_they_read_a_bounded_number_of_steps_ahead(store: ClipStore) -> None:
    asked: list[int] = []
    with closing(loader(store, 2)) as processes:
        draw_step = processes._sampler.draw_step
        processes._sampler.draw_step = lambda step, slots: asked.append(step) or draw_step(step, slots)  # type: ignore[func-returns-value,method-assign]
        for step in range(4):
            processes.frames(step)
    # The thread is at step 4.
    assert max(asked) < 4 + 2 * STEPS_AHEAD


def test_a_damaged_clip_is_the_same_error_in_a_process_as_in_the_thread(store: ClipStore) -> None:
    shard = store.root / store.record(0).shard
    with shard.open("r+b") as file:
        file.seek(store.record(0).offset + store.record(0).length // 2)
        file.write(bytes(64))
    messages = set()
    for workers in (0, 1):
        with closing(loader(ClipStore.open(store.root, "train"), workers)) as reading:
            with pytest.raises(StoreError) as caught:
                [reading.frames(step) for step in range(5)]
            messages.add(str(caught.value))
    assert len(messages) == 1
    assert "is damaged: the clip at byte" in messages.pop()


def test_a_killed_process_is_an_error_that_names_the_setting(store: ClipStore) -> None:
    with closing(loader(store, 1)) as processes:
        processes.frames(0)
        (reader,) = readers()
        reader.kill()
        with pytest.raises(UserError, match=r"Set `reader_workers` in the profile below 1"):
            [processes.frames(step) for step in range(1, 10)]


def test_requests_to_stop_leave_the_processes_to_the_training(store: ClipStore) -> None:
    with closing(loader(store, 1)) as processes:
        processes.frames(0)
        (reader,) = readers()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            os.kill(reader.pid, number)
        for step in range(1, 6):
            processes.frames(step)
        assert reader.is_running()


def test_too_little_shared_memory_is_said_before_a_bus_error(store: ClipStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with closing(loader(store, 2)) as processes, pytest.raises(UserError, match=r"reader_workers.*--shm-size"):
        processes.frames(0)


TRAINING = """
import sys, time
from pathlib import Path
import torch
from taehv.data.clip_store import ClipStore
from taehv.data.loader import SlotLoader
from taehv.data.sampler import SlotSampler
if __name__ == "__main__":
    store = ClipStore.open(Path(sys.argv[1]), "train")
    sampler = SlotSampler(store.columns(), seed=1, global_batch=2, height=16, width=16, frames=5, horizontal_flip=True)
    SlotLoader(store, sampler, range(2), torch.device("cpu"), 2).frames(0)
    print("reads", flush=True)
    time.sleep(1000)
"""


def test_a_killed_training_leaves_no_reading_process_behind(store: ClipStore) -> None:
    command = [sys.executable, "-c", TRAINING, str(store.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == "reads\n"
        children = readers(training.pid)
        assert len(children) == 2
        training.kill()
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive
