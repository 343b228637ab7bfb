"""Processes that decode videos: what happens when one of them, or the stage itself, is killed."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path

import psutil
import pytest

from taehv.data.workers import SameProcess, Workers, advance
from taehv.runtime.errors import UserError

pytestmark = pytest.mark.slow


def killed_at(video: str) -> str:
    """What the kernel does to a process that takes all memory."""
    if video == "huge.mp4":
        os.kill(os.getpid(), signal.SIGKILL)
    return video.upper()


def in_workers(workers: Workers, videos: list[str]) -> list[str]:
    return list(workers.map(killed_at, videos, label="inspect", unit="video", total=len(videos), name=str))


def test_results_come_in_the_order_of_the_tasks() -> None:
    videos = [f"{number}.mp4" for number in range(8)]
    with Workers(2) as workers:
        assert in_workers(workers, videos) == [video.upper() for video in videos]


def test_a_task_that_kills_its_worker_twice_is_named_with_the_setting_to_change(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with Workers(1) as workers:
        assert in_workers(workers, ["fine.mp4"]) == ["FINE.MP4"]
        with pytest.raises(UserError, match=r"Set fewer workers than 1 .*huge\.mp4"):
            in_workers(workers, ["huge.mp4", "late.mp4"])
    assert "what was not finished is done again: huge.mp4" in capfd.readouterr().err


def killed_once(task: tuple[str, Path]) -> str:
    """Dies the first time, as where memory was short for a moment."""
    name, seen = task
    if name == "huge.mp4" and not seen.exists():
        seen.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    advance()
    return name


@pytest.mark.parametrize("processes", [1, 2])
def test_a_worker_that_is_killed_once_costs_its_tasks_a_second_attempt_and_no_result(
    processes: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [*(f"{number}.mp4" for number in range(9)), "huge.mp4", *(f"{number}.mp4" for number in range(10, 30))]
    with Workers(processes) as workers:
        tasks = [(name, tmp_path / "seen") for name in names]
        assert list(workers.map(killed_once, tasks, label="cut", unit="video", total=30, name=itemgetter(0))) == names
    assert "cut: a worker process died; what was not finished is done again: " in (said := capfd.readouterr().err)
    assert "30/30" in said


def test_a_worker_that_is_killed_while_it_waits_for_work_costs_nothing() -> None:
    with Workers(1) as workers:
        in_workers(workers, ["fine.mp4"])
        (worker,) = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
        worker.kill()
        worker.wait()
        assert in_workers(workers, ["fine.mp4"]) == ["FINE.MP4"]


@pytest.mark.parametrize("start", [lambda: Workers(2), SameProcess], ids=["processes", "this process"])
def test_tasks_are_taken_a_few_at_a_time_and_results_come_while_others_are_still_to_be_made(
    start: Callable[[], Workers | SameProcess],
) -> None:
    """An endless list without a known total: whoever held all of it, or all results, would never come to an end."""
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield f"{taken}.mp4"

    with start() as mapper:
        results = mapper.map(killed_at, endless(), label="inspect", unit="video", total=None, name=str)
        for number, result in enumerate(itertools.islice(results, 100), start=1):
            assert result == f"{number}.MP4"
            assert taken - number < 16


def test_an_error_in_a_task_is_raised_where_its_result_would_come() -> None:
    with Workers(2) as workers:
        results = workers.map(int, ["1", "2", "x", "4"], label="", unit="", total=4, name=str)
        assert [next(results), next(results)] == [1, 2]
        with pytest.raises(ValueError, match="invalid literal"):
            next(results)


def test_a_killed_stage_leaves_no_worker_behind() -> None:
    program = (
        "from taehv.data.workers import Workers\nimport time\n"
        "if __name__ == '__main__':\n"
        "    with Workers(2) as workers:\n"
        "        list(workers.map(time.sleep, [1000, 1000], label='', unit='', total=2, name=str))\n"
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
