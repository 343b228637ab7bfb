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

from taehv.data.decode import _open
from taehv.params import VideoLimits

Ticks = npt.NDArray[np.int64]

LARGEST_TERM = 2**31 - 1
"""FFmpeg's fractions are made of 32-bit numbers."""
MOST_REORDERED = 32
"""Places that a frame may move between decoding and showing; the standards allow 16. Beyond it a clock was set back."""


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


def variable_rate(path: Path, rate: Fraction, limits: VideoLimits) -> VariableRate | None:
    """The times of a video's frames; None where ``rate`` says them all, or the file does not say them.

    Times less than a tick from the rate's are the rate's: a clock of milliseconds cannot say 1001/30000 s.

    Raises:
        VideoError: the file cannot be opened.
    """
    times, durations, clock = _packet_times(path, limits)
    if not len(times):
        return None
    order = np.argsort(times, kind="stable")
    if np.abs(order - np.arange(len(order))).max() > MOST_REORDERED:
        return None
    ticks = rising(times[order] - times[order[0]])
    if _is_constant(ticks, rate * clock):
        return None
    last = durations[order[-1]] or (int(np.median(np.diff(ticks))) if len(ticks) > 1 else 1)
    return VariableRate(clock, np.append(ticks, ticks[-1] + max(last, 1)))


def rising(ticks: Ticks) -> Ticks:
    """The same times, but of two frames at one time the second a tick later: encoders want rising times."""
    number = np.arange(len(ticks))
    return np.asarray(np.maximum.accumulate(ticks - number) + number, dtype=np.int64)


def storable_rate(rate: Fraction) -> Fraction:
    """The nearest fraction that FFmpeg, and a file of latents, can hold."""
    largest = LARGEST_TERM if rate <= 1 else int(LARGEST_TERM / rate)
    return rate.limit_denominator(max(largest, 1))


def _packet_times(path: Path, limits: VideoLimits) -> tuple[Ticks, list[int], Fraction]:
    """Ticks and durations of the packets that are shown, in the order of the file, and seconds per tick."""
    with _open(path, limits) as (container, stream):
        # Numbers only: a packet holds its data, and all of them the whole file.
        packets = [
            (packet.pts, packet.dts, packet.duration or 0)
            for packet in container.demux(stream)
            if packet.size and not packet.is_discard
        ]
        clock = stream.time_base or Fraction(0)
    shown, decoded = [pts for pts, _, _ in packets], [dts for _, dts, _ in packets]
    # AVI counts its frames in the order of decoding, and says nothing else.
    times = [time for time in (decoded if None in shown else shown) if time is not None]
    whole = len(times) == len(packets) and clock > 0
    return np.array(times if whole else [], np.int64), [duration for _, _, duration in packets], clock


def _is_constant(ticks: Ticks, frames_per_tick: Fraction) -> bool:
    expected = np.arange(len(ticks)) * float(1 / frames_per_tick)
    return bool(np.abs(ticks - expected).max() < 1)
