"""Videos whose frames are not shown at a constant rate, such as phones and screen recorders make them.

What a container calls its average rate is a promise (Matroska: the default duration of a frame). The times of the
frames themselves say whether it is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taehv.config.params import VideoLimits
from taehv.data.decode import VideoInfo, frame_times

Ticks = npt.NDArray[np.int64]

LARGEST_TERM = 2**31 - 1
"""FFmpeg's fractions are made of 32-bit numbers."""


@dataclass(frozen=True, eq=False)
class VariableRate:
    """When each frame is shown."""

    clock: Fraction
    """Seconds per tick."""
    ticks: Ticks
    """(frames + 1,): when each frame is first shown, from 0 on and rising, and when the last one ends."""

    @property
    def frames(self) -> int:
        return len(self.ticks) - 1

    @property
    def mean(self) -> Fraction:
        """Frames per second over the whole video."""
        return storable_rate(self.frames / (int(self.ticks[-1]) * self.clock))

    def first(self, frames: int) -> VariableRate:
        """The times of the first frames only."""
        return VariableRate(self.clock, self.ticks[: frames + 1])


def variable_rate(path: Path, info: VideoInfo, limits: VideoLimits) -> VariableRate | None:
    """The times of a video's frames; None where ``info.rate`` says them all, or the file does not say them.

    Times less than a tick from the rate's are the rate's: a clock of milliseconds cannot say 1001/30000 s.

    Raises:
        VideoError: the file cannot be read.
    """
    times = frame_times(path, info, limits) if info.rate else None
    if times is None or info.rate is None:
        return None
    ticks, frames_per_tick = rising(times.ticks), info.rate * times.time_base
    if _is_constant(ticks, frames_per_tick):
        return None
    # The rate is the frames over the whole time, the last one's included.
    end = max(round(len(ticks) / frames_per_tick), int(ticks[-1]) + 1)
    return VariableRate(times.time_base, np.append(ticks, end))


def rising(ticks: Ticks) -> Ticks:
    """The same times, but of two frames at one time the second a tick later: encoders want rising times."""
    number = np.arange(len(ticks))
    return np.asarray(np.maximum.accumulate(ticks - number) + number, dtype=np.int64)


def storable_rate(rate: Fraction) -> Fraction:
    """The nearest fraction that FFmpeg, and a file of latents, can hold."""
    largest = LARGEST_TERM if rate <= 1 else int(LARGEST_TERM / rate)
    return rate.limit_denominator(max(largest, 1))


def _is_constant(ticks: Ticks, frames_per_tick: Fraction) -> bool:
    expected = np.arange(len(ticks)) * float(1 / frames_per_tick)
    return bool(np.abs(ticks - expected).max() < 1)
