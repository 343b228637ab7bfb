"""When the frames of a video are shown: at a constant rate, or each at its own time.

What a container calls its average rate is a promise (Matroska: the default duration of a frame). The times of the
frames themselves say whether it is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taehv.data.decode import open_stream
from taehv.params import VideoLimits

Ticks = npt.NDArray[np.int64]

LARGEST_TERM = 2**31 - 1
"""FFmpeg's fractions are made of 32-bit numbers."""
MOST_REORDERED = 32
"""Places that a frame may move between decoding and showing; the standards allow 16. Beyond it a clock was set back."""


@dataclass(frozen=True, eq=False)
class FrameTimes:
    """A variable frame rate."""

    clock: Fraction
    """Seconds per tick."""
    ticks: Ticks
    """(frames + 1,): when each frame is first shown, from 0 on and rising, and when the last one ends."""

    @property
    def frames(self) -> int:
        return len(self.ticks) - 1

    @property
    def mean_rate(self) -> Fraction:
        """Frames per second over the whole video."""
        return storable_rate(self.frames / (int(self.ticks[-1]) * self.clock))

    def first(self, frames: int) -> FrameTimes:
        """The times of the first frames only."""
        return FrameTimes(self.clock, self.ticks[: frames + 1])


def frame_times(path: Path, rate: Fraction, limits: VideoLimits) -> FrameTimes | None:
    """The times of a video's frames; None where ``rate`` says them all, or the file does not say them.

    Times within one tick of the rate's are the rate's: a clock of milliseconds cannot say 1001/30000 s.

    Raises:
        VideoError: the file cannot be opened.
    """
    with open_stream(path, limits) as (container, stream):
        # Numbers only: a packet holds its data, and all of them the whole file.
        packets = [
            (packet.pts, packet.dts, packet.duration or 0)
            for packet in container.demux(stream)
            if packet.size and not packet.is_discard
        ]
        clock = stream.time_base
    shown_at, decoded_at, durations = zip(*packets, strict=True) if packets else ((), (), ())
    # AVI counts its frames in the order of decoding, and says nothing else.
    times = decoded_at if None in shown_at else shown_at
    if not times or None in times or not clock:
        return None
    shown = np.array(times, dtype=np.int64)
    order = np.argsort(shown, kind="stable")
    if np.abs(order - np.arange(len(order))).max() > MOST_REORDERED:
        return None
    ticks = shown[order] - shown[order[0]]
    # Two frames at one time: the second one is shown a tick later, as the encoder wants rising times.
    ticks = np.maximum.accumulate(ticks - np.arange(len(ticks))) + np.arange(len(ticks))
    if _is_constant(ticks, rate * clock):
        return None
    last = durations[order[-1]] or int(np.median(np.diff(ticks))) if len(ticks) > 1 else durations[0]
    return FrameTimes(clock, np.append(ticks, ticks[-1] + max(last, 1)))


def storable_rate(rate: Fraction) -> Fraction:
    """The nearest fraction that FFmpeg, and a file of latents, can hold."""
    largest = LARGEST_TERM if rate <= 1 else int(LARGEST_TERM / rate)
    return rate.limit_denominator(max(largest, 1))


def _is_constant(ticks: Ticks, frames_per_tick: Fraction) -> bool:
    expected = np.arange(len(ticks)) * (frames_per_tick.denominator / frames_per_tick.numerator)
    return bool(np.abs(ticks - expected).max() < 1)
