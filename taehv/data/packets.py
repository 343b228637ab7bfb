"""The packets of a video, before any is decoded: how many there are, when they are shown, and whether all are whole."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from taehv.config.params import VideoLimits
from taehv.data.container_end import missing
from taehv.data.damage import Message, captured_log, demuxer_error
from taehv.data.open_video import OpenedVideo, opened_video
from taehv.data.video_error import VideoError

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

_LARGEST_DENOMINATOR = 100_000
"""Of an average rate: an MP4's clock takes it, and a rate of 240 is right to 1 in 10^7."""
_MOST_REORDERED = 32
"""Places that a frame may move between decoding and showing; the standards allow 16. Beyond it a clock was set back."""


@dataclass(frozen=True)
class Packets:
    """The packets of a video that are to be shown."""

    count: int
    times: npt.NDArray[np.int64] | None
    """When they are shown, ascending; None where the file does not say it of all of them."""
    clock_set_back: bool
    """Whether packets are farther from the place in which they are shown than any codec moves them."""
    time_base: Fraction
    last_duration: int
    """Of the one that is shown last; 0 where it is not said."""
    nominal: tuple[Fraction, ...]
    """What the header says about the rate."""

    def shown_from(self, first: int | None) -> npt.NDArray[np.int64]:
        """The times (or numbers) of the frames: what comes before the first one that can be decoded is never shown."""
        if self.times is None or first is None:
            return np.arange(self.count)
        return self.times[self.times >= first]

    def rate(self, shown: npt.NDArray[np.int64]) -> Fraction | None:
        """Frames per second: what the header says where the frames keep to it, within a tick, or else their average."""
        if self.times is None or len(shown) < 2 or shown[-1] == shown[0]:
            return next(iter(self.nominal), None)
        ticks, numbers = shown - shown[0], np.arange(len(shown))
        tick = float(self.time_base)
        for rate in self.nominal:
            if np.abs(ticks * tick - numbers / float(rate)).max() <= 1.01 * tick:
                return rate
        span = int(ticks[-1])
        duration = span + (self.last_duration or Fraction(span, len(shown) - 1))
        return Fraction(len(shown) / (duration * self.time_base)).limit_denominator(_LARGEST_DENOMINATOR)


def survey(path: Path, limits: VideoLimits) -> Packets:
    """Read all packets of a file.

    Raises:
        VideoError: it cannot be opened, holds more than the limits, or not all packets are there and whole.
    """
    with opened_video(path, limits) as opened, captured_log() as log:
        stream = opened.stream
        promised = max(int(stream.frames), len(stream.index_entries))
        if promised > limits.frames:
            raise VideoError("too large", f"the header promises {promised:,} frames, {limits.frames:,} are allowed")
        listed = sum(entry.size > 0 for entry in stream.index_entries)
        times, timed, last, last_duration = array("q"), True, -(2**63), 0
        found = _Found()
        for packet in found.whole(opened, limits):
            if packet.is_discard:
                continue
            if packet.pts is None:
                timed = False
            elif packet.pts >= last:
                last, last_duration = packet.pts, packet.duration or 0
            times.append(packet.pts or 0)
        if found.packets < listed:
            raise VideoError("truncated", f"its index lists {listed} frames, {found.packets} can be read")
        found.check_end()
        _check_reports(path, opened.container.format.name, [*opened.log, *log])
        assert stream.time_base is not None
        given = np.frombuffer(times, np.int64)
        order = np.argsort(given, kind="stable")
        return Packets(
            count=len(times),
            times=given[order] if timed and times else None,
            clock_set_back=bool(np.any(np.abs(order - np.arange(len(order))) > _MOST_REORDERED)),
            time_base=stream.time_base,
            last_duration=last_duration,
            nominal=tuple(rate for rate in (stream.average_rate, stream.guessed_rate) if rate),
        )


@dataclass
class _Found:
    """What has been read so far."""

    packets: int = 0
    _is_cut: bool = False
    """Whether the last packet is flagged as damaged."""

    def whole(self, opened: OpenedVideo, limits: VideoLimits) -> Iterator[Packet[VideoStream]]:
        """All packets; only the last one may be flagged as damaged, and those before the first key frame."""
        seen_key = False
        for packet in opened.packets():
            if self._is_cut:
                raise VideoError("corrupt", f"packet {self.packets - 1} is flagged as damaged")
            self.packets += 1
            if self.packets > limits.frames:
                raise VideoError("too large", f"more than {limits.frames:,} frames")
            seen_key = seen_key or packet.is_keyframe
            self._is_cut = packet.is_corrupt and seen_key
            yield packet

    def check_end(self) -> None:
        if self._is_cut:
            raise VideoError("truncated", f"its last frame, number {self.packets - 1}, is cut off")


def _check_reports(path: Path, container: str, log: Sequence[Message]) -> None:
    """See what the demuxer has said, and what it does not say."""
    error = demuxer_error(log, container)
    if error:
        raise VideoError("truncated" if re.search("premature|partial|[Tt]runcat", error) else "corrupt", error)
    problem = missing(path, container)
    if problem is not None:
        raise problem
