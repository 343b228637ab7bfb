"""The clips of a step, read one step ahead of the computation."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from taehv.data.clip_store import ClipStore
from taehv.data.sampler import SlotDraw, SlotSampler, flip_drawn, load_slots


class SlotLoader:
    """Reads this process's slots of any step; which clips they are depends on (seed, step, slot) alone.

    A background thread prepares the next step, so that reading, and comparing checksums, overlaps with computing. The
    order of calls changes nothing but the waiting time.
    """

    def __init__(self, store: ClipStore, sampler: SlotSampler, slots: Sequence[int], device: torch.device) -> None:
        self._store = store
        self._sampler = sampler
        self.slots = slots
        self._device = device
        self._flips_on_device = device.type != "cpu"
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clip-reader")
        self._ahead: tuple[int, Future[Tensor]] | None = None
        self.seconds_waited = 0.0
        """How long ``frames`` has waited for clips, in all."""

    def draws(self, step: int, slots: Iterable[int] | None = None) -> list[SlotDraw]:
        """What some slots of ``step`` show, on whatever process they are; by default this process's own."""
        return self._sampler.draw_step(step, tuple(self.slots if slots is None else slots))

    def frames(self, step: int) -> Tensor:
        """(slots, T, 3, H, W) uint8 on the device; the following step is read meanwhile."""
        started = time.perf_counter()
        if self._ahead is None or self._ahead[0] != step:
            # In the thread, too: the store is for one thread at a time.
            self._ahead = (step, self._reader.submit(self._read, step))
        frames = self._ahead[1].result()
        self.seconds_waited += time.perf_counter() - started
        self._ahead = (step + 1, self._reader.submit(self._read, step + 1))
        on_device = frames.to(self._device, non_blocking=True)
        return flip_drawn(on_device, self.draws(step)) if self._flips_on_device else on_device

    def close(self) -> None:
        """Stop reading ahead."""
        self._reader.shutdown(wait=True, cancel_futures=True)

    def _read(self, step: int) -> Tensor:
        size = self._sampler.height, self._sampler.width, self._sampler.frames
        frames = load_slots(self._store, self.draws(step), *size, flip=not self._flips_on_device)
        return frames.pin_memory() if self._device.type == "cuda" else frames
