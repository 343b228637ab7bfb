"""Processes that decode videos: what happens when one of them, or the stage itself, is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from taehv.data.workers import Workers
from taehv.runtime.errors import UserError

pytestmark = pytest.mark.slow


def killed_at(video: str) -> str:
    """What the kernel does to a process that takes all memory."""
    if video == "huge.mp4":
        os.kill(os.getpid(), signal.SIGKILL)
    return video.upper()


def in_workers(workers: Workers, videos: list[str]) -> list[str]:
    return workers.map(killed_at, videos, label="inspect", unit="video", total=len(videos), name=str)


def test_results_come_in_the_order_of_the_tasks() -> None:
    videos = [f"{number}.mp4" for number in range(8)]
    with Workers(2) as workers:
        assert in_workers(workers, videos) == [video.upper() for video in videos]


def test_a_killed_worker_names_the_videos_that_were_being_read_and_the_setting_to_change() -> None:
    with Workers(1) as workers:
        assert in_workers(workers, ["fine.mp4"]) == ["FINE.MP4"]
        with pytest.raises(UserError, match=r"Set `workers` in the profile below 1.*huge\.mp4"):
            in_workers(workers, ["huge.mp4", "late.mp4"])


def test_a_worker_that_is_killed_while_it_waits_for_work_is_the_same_error() -> None:
    with Workers(1) as workers:
        in_workers(workers, ["fine.mp4"])
        (worker,) = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
        worker.kill()
        worker.wait()
        with pytest.raises(UserError, match="inspect: a worker process died"):
            in_workers(workers, ["fine.mp4"])


def test_a_killed_stage_leaves_no_worker_behind() -> None:
    program = (
        "from taehv.data.workers import Workers\nimport time\n"
        "if __name__ == '__main__':\n"
        "    with Workers(2) as workers:\n"
        "        workers.map(time.sleep, [1000, 1000], label='', unit='', total=2, name=str)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as stage:
        workers = wait_for_workers(psutil.Process(stage.pid))
        stage.kill()
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive


def wait_for_workers(stage: psutil.Process) -> list[psutil.Process]:
    """Both workers, once they have loaded what they need."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [child for child in stage.children() if "spawn_main" in " ".join(child.cmdline())]
        if len(found) == 2 and all(child.num_threads() > 1 for child in found):
            return found
        time.sleep(0.1)
    raise AssertionError("the workers did not start")
