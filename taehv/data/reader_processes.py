"""Processes that read, and decode, the clips of the next steps: in order, a bounded number of steps ahead.

An executor, not torch's DataLoader: where a process of that one dies, a signal handler raises in the middle of whatever
the training does just then, and its errors have a traceback for a message.
"""

from __future__ import annotations

import math
import shutil
import signal
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch.multiprocessing
from torch import Tensor

from taehv.data.clip_store import ClipStore
from taehv.data.sampler import SlotDraw, load_slots
from taehv.data.workers import exit_with_parent
from taehv.runtime.errors import UserError
from taehv.runtime.signals import EXIT_CODES

SHARED_MEMORY = Path("/dev/shm")
STEPS_AHEAD = 2
"""Of each process: one that it reads, and one that waits."""

CropSize = tuple[int, int, int]
"""Height, width and frames."""

_reading: tuple[ClipStore, CropSize, bool]
"""In a reading process: the store, the crops' size, and whether they are flipped where they are read."""


class ReaderProcesses:
    """Reads steps; fastest in ascending order, right in any. What it reads does not depend on how many there are."""

    def __init__(
        self, store: ClipStore, size: CropSize, *, flip: bool, draws: Callable[[int], list[SlotDraw]], processes: int
    ) -> None:
        """``draws``: what the slots of a step show."""
        self._size = size
        self._draws = draws
        self._processes = processes
        self._checked = False
        self._ahead: deque[tuple[int, Future[Tensor]]] = deque()
        # torch's context hands tensors over in shared memory. A fork would inherit the threads of whatever runs here.
        context = torch.multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(
            processes, context, initializer=_start_reading, initargs=((store, size, flip),)
        )

    def read(self, step: int) -> Tensor:
        """The crops of a step: (slots, T, 3, H, W) uint8.

        Raises:
            UserError: a process has died, or there is too little memory to hand crops over; and what reading raises.
        """
        self._check_shared_memory(step)
        while self._ahead and self._ahead[0][0] != step:
            self._ahead.popleft()[1].cancel()
        try:
            first = self._ahead[-1][0] + 1 if self._ahead else step
            for later in range(first, step + self._processes * STEPS_AHEAD):
                self._ahead.append((later, self._pool.submit(_read, self._draws(later))))
            return self._ahead.popleft()[1].result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process that reads clips has died, most likely for want of memory. Set `reader_workers` in the "
                f"profile below {self._processes}, and look into the system's log."
            ) from error

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _check_shared_memory(self, step: int) -> None:
        """Before the first step: to write beyond the end of shared memory is a bus error, not an exception."""
        if self._checked or not SHARED_MEMORY.is_dir():
            return
        self._checked = True
        needed = len(self._draws(step)) * 3 * math.prod(self._size) * self._processes * STEPS_AHEAD
        free = shutil.disk_usage(SHARED_MEMORY).free
        if needed > free:
            raise UserError(
                f"{self._processes} processes that read clips need {needed / 2**20:,.0f} MiB of shared memory, "
                f"{SHARED_MEMORY} has {free / 2**20:,.0f} MiB free. Lower `reader_workers` in the profile, or start "
                "the container with a larger --shm-size."
            )


def _start_reading(reading: tuple[ClipStore, CropSize, bool]) -> None:
    """In a new process. Requests to stop are for the training, which needs its clips until it has ended."""
    global _reading
    _reading = reading
    torch.set_num_threads(1)  # parallelism is over steps
    for name in EXIT_CODES:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    exit_with_parent()


def _read(draws: Sequence[SlotDraw]) -> Tensor:
    store, size, flip = _reading
    return load_slots(store, draws, *size, flip=flip)
