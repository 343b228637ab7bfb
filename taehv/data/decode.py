"""Reading videos with PyAV: what a video is, and its frames in order.

A video that cannot be read as it stands is a ``VideoError`` with the reason; no frame is ever replaced by another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from taehv.config.params import DEFAULT_LIMITS, NO_CONVERSIONS, Conversions, VideoLimits
from taehv.data.damage import Watch
from taehv.data.interlacing import WINDOW, Deinterlacer, FieldOrder, field_order
from taehv.data.open_video import opened_video
from taehv.data.packets import Packets, survey
from taehv.data.rgb_frames import FrameConverter
from taehv.data.video_error import VideoError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_WITHOUT_FIELDS = ("gif", "apng")
"""Their frames are never interlaced, but dithered, which can look so."""
_LOOKED_AT = (Fraction(0), Fraction(1, 3), Fraction(2, 3))
"""Where in the video frames are looked at for interlacing."""


class FewerFramesError(Exception):
    """The decoder gave fewer frames than there are packets, without an error (some packets carry no frame)."""

    def __init__(self, frames: int) -> None:
        super().__init__(f"{frames} frames")
        self.frames = frames


@dataclass(frozen=True)
class VideoInfo:
    """What a look at the packets and some frames tells."""

    frames: int
    """Frames, one per packet that is to be shown."""
    height: int
    """As shown, after rotation."""
    width: int
    rate: Fraction | None = None
    """Frames per second by the frames' own times, the average where it varies; None where the file has no times."""
    fields: FieldOrder | None = None
    """The order of an interlaced video's fields; None where it is progressive."""


@dataclass(frozen=True)
class FrameTimes:
    """When each frame of a video is shown."""

    ticks: npt.NDArray[np.int64]
    """Ascending, from the first frame on, which is at 0; one per frame (``VideoInfo.frames``)."""
    time_base: Fraction
    """Seconds per tick."""

    def seconds(self, frame: int) -> Fraction:
        """When a frame is shown, from the first one on."""
        return int(self.ticks[frame]) * self.time_base


def probe(path: Path, limits: VideoLimits = DEFAULT_LIMITS, conversions: Conversions = NO_CONVERSIONS) -> VideoInfo:
    """Count a video's frames without decoding them, and decode some for its size and whether it is interlaced.

    Raises:
        VideoError: the file is not a video, has no video stream, is larger than the limits, is truncated or damaged,
            needs a conversion that is not wanted, or its first frame does not decode.
    """
    with _errors_of_one_video():
        packets = survey(path, limits)
        first = next(_frames(path, limits))
        height, width = FrameConverter(conversions.hdr).rgb(first).shape[:2]
        fields = _fields(path, limits, packets)
    if fields and conversions.interlaced == "exclude":
        raise VideoError(
            "interlaced",
            "its frames are interlaced; data.interlaced: deinterlace (--interlaced deinterlace) fixes them",
        )
    shown = packets.shown_from(first.pts)
    return VideoInfo(len(shown), height, width, packets.rate(shown), fields)


def frame_times(path: Path, info: VideoInfo, limits: VideoLimits = DEFAULT_LIMITS) -> FrameTimes | None:
    """When each of the frames that ``read_frames`` gives is shown; None where the file has no times, or its clock was
    set back on the way.

    Raises:
        VideoError: as ``probe`` does.
    """
    with _errors_of_one_video():
        packets = survey(path, limits)
        first = next(_frames(path, limits))
    shown = packets.shown_from(first.pts)
    if packets.times is None or packets.clock_set_back or len(shown) < info.frames:
        return None
    ticks = shown[: info.frames]
    return FrameTimes(ticks - ticks[0], packets.time_base)


def read_frames(
    path: Path,
    info: VideoInfo,
    limits: VideoLimits = DEFAULT_LIMITS,
    conversions: Conversions = NO_CONVERSIONS,
    *,
    stride: int,
    height: int,
    width: int,
    stop: int,
) -> Iterator[npt.NDArray[np.uint8]]:
    """Every ``stride``-th frame as (height, width, 3) RGB, ``stop`` of them; one frame is held at a time.

    Raises:
        VideoError: a frame does not decode, is larger than the limits, or needs a conversion that is not wanted.
        FewerFramesError: the video ended early although nothing is wrong with it; ``info.frames`` was too high.
    """
    decoded = given = 0
    converter = FrameConverter(conversions.hdr, height, width)
    with _errors_of_one_video():
        frames = _frames(path, limits)
        for frame in _deinterlaced(frames, info.fields) if info.fields else frames:
            if decoded % stride == 0:
                yield converter.rgb(frame)
                given += 1
                if given == stop:
                    return
            decoded += 1
    raise FewerFramesError(decoded)


@contextmanager
def _errors_of_one_video() -> Iterator[None]:
    """Whatever goes wrong while a stranger's file is read is that file's fault: the others go on."""
    try:
        yield
    except (VideoError, MemoryError):
        raise
    except Exception as error:
        raise VideoError("unreadable", f"{type(error).__name__}: {error}") from error


def _frames(path: Path, limits: VideoLimits) -> Iterator[VideoFrame]:
    """All frames that are to be shown, in order, as they were decoded."""
    watch, size = Watch(), None
    with opened_video(path, limits) as opened:
        for packet in opened.packets_and_end():
            frames, error = opened.decode(packet)
            watch.packet(packet, error)
            for frame in frames:
                watch.frame(frame)
                size = size or (frame.width, frame.height)
                if (frame.width, frame.height) != size:
                    change = f"{size[0]}x{size[1]} to {frame.width}x{frame.height}"
                    raise VideoError("unsupported", f"the frame changes its size from {change} at frame {watch.shown}")
                yield frame
    watch.end()


def _deinterlaced(frames: Iterator[VideoFrame], order: FieldOrder) -> Iterator[VideoFrame]:
    deinterlacer = Deinterlacer(order)
    for frame in frames:
        yield from deinterlacer.push(frame)
    yield from deinterlacer.finish()


def _fields(path: Path, limits: VideoLimits, packets: Packets) -> FieldOrder | None:
    """Look at some frames for interlacing. Damage is not looked for here: it is found when they are read."""

    def window(where: Fraction) -> Iterator[VideoFrame]:
        with opened_video(path, limits) as opened:
            if where:
                assert packets.times is not None
                opened.seek(int(packets.times[int(where * packets.count)]))
            size = None
            for packet in opened.packets_and_end():
                for frame in opened.decode(packet)[0]:
                    size = size or (frame.width, frame.height)
                    if (frame.width, frame.height) != size:
                        return
                    yield frame

    with opened_video(path, limits) as opened:
        if opened.container.format.name in _WITHOUT_FIELDS:
            return None
    places = _LOOKED_AT if packets.times is not None and packets.count > WINDOW else _LOOKED_AT[:1]
    return field_order(islice(window(where), WINDOW) for where in places)
