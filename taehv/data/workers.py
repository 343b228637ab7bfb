"""Work on many videos in parallel processes, with a progress bar. The results do not depend on how many there are."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import zip_longest
from typing import Any, TypeVar

from tqdm import tqdm

from taehv.config.profiles import Profile
from taehv.runtime.errors import UserError
from taehv.runtime.machine import available_cores

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

_TERMINAL_SECONDS = 0.2
_LOG_SECONDS = 10.0
"""How often the progress bar is drawn anew, on a terminal and in a log file."""

_progress: Any = None
"""In a worker process: the counter of finished units, shared by all of them."""


def worker_count(profile: Profile) -> int:
    """Processes that decode videos on this machine: the profile's, or one per core."""
    return available_cores() if profile.workers is None else profile.workers


def advance() -> None:
    """Count one finished unit of work; does nothing outside a worker process."""
    if _progress is None:
        return
    with _progress.get_lock():
        _progress.value += 1


class Workers:
    """A pool of worker processes.

    They are started afresh (spawn): a fork would inherit the threads of whatever runs here.
    """

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._processes = processes
        self._counter = context.Value("q", 0)
        self._pool = ProcessPoolExecutor(processes, context, initializer=_start_worker, initargs=(self._counter,))

    def map(
        self,
        function: Callable[[TaskT], ResultT],
        tasks: Sequence[TaskT],
        *,
        label: str,
        unit: str,
        total: int,
        name: Callable[[TaskT], str],
    ) -> list[ResultT]:
        """``function`` of each task, in the order of the tasks.

        Args:
            function: runs in a worker process and calls ``advance`` once per unit.
            tasks: its arguments.
            label, unit, total: what the progress bar shows.
            name: what to call a task in an error.

        Raises:
            UserError: a worker process died.
        """
        interval = _TERMINAL_SECONDS if sys.stderr.isatty() else _LOG_SECONDS
        already = self._counter.value
        with tqdm(total=total, desc=label, unit=unit, mininterval=interval) as bar:
            futures: list[Future[ResultT]] = []
            finished: set[Future[ResultT]] = set()
            try:
                futures.extend(self._pool.submit(function, task) for task in tasks)
                waiting = set(futures)
                while waiting:
                    done, waiting = wait(waiting, timeout=_TERMINAL_SECONDS, return_when=FIRST_COMPLETED)
                    bar.update(self._counter.value - already - bar.n)
                    for future in done:
                        future.result()
                        finished.add(future)
            except BrokenProcessPool as error:
                # They are worked on in order, so that it died of one of the first that are not finished.
                unfinished = [name(task) for task, future in zip_longest(tasks, futures) if future not in finished]
                raise UserError(
                    f"{label}: a worker process died, most likely for want of memory. "
                    f"Set `workers` in the profile below {self._processes}, and look into the system's log. "
                    "If it dies again, the cause is one of these, which can be taken out of data/manifest.csv: "
                    + ", ".join(unfinished[: self._processes + 1])
                ) from error
        return [future.result() for future in futures]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            for process in multiprocessing.active_children():  # nobody waits for what they are at
                process.kill()
        self._pool.shutdown(cancel_futures=True)


def _start_worker(counter: Any) -> None:
    global _progress
    _progress = counter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the interrupt key is for the stage, which ends its workers
    exit_with_parent()


def exit_with_parent() -> None:
    """In a child process: end when the parent has. A killed one must leave none behind that wait for work for ever."""
    threading.Thread(target=_wait_and_exit, daemon=True).start()


def _wait_and_exit() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
