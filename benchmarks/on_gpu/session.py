"""One run of a part: its device, its time, and its results, written down as they come."""

from __future__ import annotations

import json
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from taehv.model import compilation
from taehv.runtime.paths import compiled_folder


class Session:
    """A case that fails is printed and counted, and the next one begins; one that has no time left is named."""

    def __init__(self, part: str, out: Path, budget: float, only: str = "", *, rehearsal: bool = False) -> None:
        if not rehearsal and not torch.cuda.is_available():
            raise SystemExit("there is no GPU; --rehearse runs the same lines on a CPU")
        self.rehearsal = rehearsal
        self.device = torch.device("cpu" if rehearsal else "cuda")
        self._only = [text for text in only.split(";") if text]
        self._started, self._budget = time.monotonic(), budget
        out.mkdir(parents=True, exist_ok=True)
        self._file = out / f"{part}.jsonl"
        self._failed = 0
        compilation.use_cache_folder(compiled_folder())
        name = "a rehearsal on the CPU" if rehearsal else torch.cuda.get_device_name()
        self.say(f"{part}: {name}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")

    def say(self, line: str) -> None:
        print(f"[{time.monotonic() - self._started:4.0f} s] {line}", flush=True)

    def case(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """Do one case, and write down what it found."""
        if self._only and not any(text in name for text in self._only):
            return
        if time.monotonic() - self._started > self._budget:
            self.say(f"{name}: no time left")
            return
        try:
            found = work()
        except Exception as error:
            self._failed += 1
            traceback.print_exc(limit=-4)
            found = {"error": f"{type(error).__name__}: {str(error).strip()[:300]}"}
        shown = "  ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in found.items()
        )
        self.say(f"{name}: {shown}")
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"case": name, **found}) + "\n")
        if not self.rehearsal:
            torch.cuda.empty_cache()

    def finish(self) -> int:
        """The exit code."""
        self.say(f"done, {self._failed} failed")
        return 1 if self._failed else 0

    def milliseconds(self, work: Callable[[], Any], times: int = 10) -> float:
        """Median of ``times`` after two for warming up, each between two events on the device."""
        taken = []
        for turn in range((2 if not self.rehearsal else 0) + (times if not self.rehearsal else 1)):
            if self.rehearsal:
                begun = time.perf_counter()
                work()
                taken.append((time.perf_counter() - begun) * 1e3)
                continue
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            work()
            end.record()
            end.synchronize()
            if turn >= 2:
                taken.append(start.elapsed_time(end))
        return statistics.median(taken)

    def peak_gb(self, work: Callable[[], Any]) -> float:
        """What ``work`` allocates at most, with everything that is there already, in GB."""
        if self.rehearsal:
            work()
            return 0.0
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 1e9


def relative_error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """‖found - truth‖ / ‖truth‖; NaN where found has one."""
    return float((found.double() - truth.double()).norm() / truth.double().norm())
