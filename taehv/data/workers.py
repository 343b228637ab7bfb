"""One function over many items, in order, in parallel processes, with progress and failures named.

The results do not depend on how many processes there are, nor on which of them is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from tqdm import tqdm

from taehv.runtime.errors import UserError

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

_TERMINAL_SECONDS = 0.2
_LOG_SECONDS = 10.0
"""How often the progress bar is drawn anew, on a terminal and in a log file."""
_WINDOW = 4
"""Tasks per process that are handed out and not yet given back: enough that none waits while the first is slow."""
_ATTEMPTS = 2
"""A task may lose its process once: the next time, the task is the likely cause."""

_progress: Any = None
"""In a worker process: the counter of finished units, shared by all of them."""


class Mapper(Protocol):
    """What maps a function over many items. The local pool is one; a cluster can be another."""

    def map(
        self,
        function: Callable[[TaskT], ResultT],
        tasks: Iterable[TaskT],
        *,
        label: str,
        unit: str,
        total: int | None,
        name: Callable[[TaskT], str],
    ) -> Iterator[ResultT]:
        """``function`` of each task, in the order of the tasks, as they are asked for.

        Tasks are taken from the iterable a few at a time, and neither they nor results are held longer than that.

        Args:
            function: can be pickled, calls ``advance`` once per unit, and may be run again for the same task: what it
                writes is then the same.
            tasks: its arguments.
            label, unit, total: what the progress bar shows; None where nobody knows how many units there are.
            name: what to call a task in an error.

        Raises:
            UserError: a process died at the same task twice.
        """
        ...


def advance() -> None:
    """Count one finished unit of work; does nothing outside a map."""
    if _progress is None:
        return
    with _progress.get_lock():
        _progress.value += 1


@contextmanager
def counting() -> Iterator[Any]:
    """Around tasks that run in this process: gives the counter of the units that ``advance`` counts."""
    global _progress
    _progress = multiprocessing.Value("q", 0)
    try:
        yield _progress
    finally:
        _progress = None


@dataclass
class _Handed(Generic[TaskT, ResultT]):
    """A task that was taken from the iterable, and whose result was not yet given back."""

    task: TaskT
    future: Future[ResultT] | None = None
    """None before it is submitted, for the first time or again."""
    attempts: int = 0

    @property
    def lost(self) -> bool:
        """Whether its process pool broke before it was finished."""
        return self.future is None or (self.future.done() and isinstance(self.future.exception(), BrokenProcessPool))


class Workers:
    """A pool of worker processes on this machine (a ``Mapper``).

    They are started afresh (spawn): a fork would inherit the threads of whatever runs here.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._start_pool()

    def map(
        self,
        function: Callable[[TaskT], ResultT],
        tasks: Iterable[TaskT],
        *,
        label: str,
        unit: str,
        total: int | None,
        name: Callable[[TaskT], str],
    ) -> Iterator[ResultT]:
        """See Mapper. When a process dies, its tasks are done again, once, by new processes, and that is said."""
        remaining = iter(tasks)
        handed: deque[_Handed[TaskT, ResultT]] = deque()
        with progress_bar(label, unit, total) as bar:
            units = _Units(bar, self._counter)
            while True:
                try:
                    self._hand_out(function, remaining, handed)
                    if not handed:
                        return
                    unfinished = [one.future for one in handed if one.future is not None and not one.future.done()]
                    wait(unfinished, timeout=_TERMINAL_SECONDS, return_when=FIRST_COMPLETED)
                    units.show()
                    while handed and (future := handed[0].future) is not None and future.done():
                        result = future.result()
                        handed.popleft()
                        yield result
                except BrokenProcessPool as error:
                    self._start_again(handed, label, name, error)
                    units.count_with(self._counter)

    def _hand_out(
        self,
        function: Callable[[TaskT], ResultT],
        remaining: Iterator[TaskT],
        handed: deque[_Handed[TaskT, ResultT]],
    ) -> None:
        while len(handed) < _WINDOW * self._processes:
            try:
                handed.append(_Handed(next(remaining)))
            except StopIteration:
                break
        for one in handed:
            if one.future is None:
                one.future = self._pool.submit(function, one.task)
                one.attempts += 1

    def _start_again(
        self,
        handed: Iterable[_Handed[TaskT, ResultT]],
        label: str,
        name: Callable[[TaskT], str],
        error: BrokenProcessPool,
    ) -> None:
        """New processes, and the tasks that were lost with the old ones are submitted again.

        Raises:
            UserError: one of them was lost before.
        """
        self._pool.shutdown()  # it has killed its other processes: none writes what the new ones write again
        lost = [one for one in handed if one.lost]
        # They are worked on in order, so that it died of one of the first.
        suspects = ", ".join(name(one.task) for one in lost[: self._processes + 1])
        if any(one.attempts == _ATTEMPTS for one in lost):
            raise UserError(
                f"{label}: a worker process died, and another one at the same task, most likely for want of memory. "
                f"Set fewer workers than {self._processes} (`workers` in the profile, or --workers), and look into the "
                "system's log. If it dies again, the cause is one of these, which can be taken out of the list of "
                f"videos: {suspects}"
            ) from error
        print(f"{label}: a worker process died; what was not finished is done again: {suspects}", file=sys.stderr)
        for one in lost:
            one.future = None
        self._start_pool()

    def _start_pool(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._counter = context.Value("q", 0)
        self._pool = ProcessPoolExecutor(self._processes, context, initializer=_start_worker, initargs=(self._counter,))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            for process in multiprocessing.active_children():  # nobody waits for what they are at
                process.kill()
        self._pool.shutdown(cancel_futures=True)


class SameProcess:
    """A ``Mapper`` for so few items that starting processes would take longer than the work."""

    def map(
        self,
        function: Callable[[TaskT], ResultT],
        tasks: Iterable[TaskT],
        *,
        label: str,
        unit: str,
        total: int | None,
        name: Callable[[TaskT], str],
    ) -> Iterator[ResultT]:
        """See Mapper."""
        with progress_bar(label, unit, total) as bar, counting() as counter:
            units = _Units(bar, counter)
            for task in tasks:
                result = function(task)
                units.show()
                yield result

    def __enter__(self) -> SameProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was started."""


class _Units:
    """Moves a progress bar as far as a counter has come."""

    def __init__(self, bar: tqdm[Any], counter: Any) -> None:
        self._bar = bar
        self.count_with(counter)

    def count_with(self, counter: Any) -> None:
        """From here on; a task that is done again counts its units again, and the bar stops at its end."""
        self._counter = counter
        self._offset = self._bar.n - counter.get_obj().value

    def show(self) -> None:
        # Read without the counter's lock: a process may have been killed while it held it.
        count = self._offset + self._counter.get_obj().value
        self._bar.update((count if self._bar.total is None else min(count, self._bar.total)) - self._bar.n)


def progress_bar(label: str, unit: str, total: int | None, delay_seconds: float = 0.0) -> tqdm[Any]:
    """Drawn often on a terminal, and seldom in a log; not at all before ``delay_seconds``."""
    interval = _TERMINAL_SECONDS if sys.stderr.isatty() else _LOG_SECONDS
    return tqdm(total=total, desc=label, unit=unit, mininterval=interval, delay=delay_seconds)


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
