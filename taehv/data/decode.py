"""Reading videos with PyAV: what a video is, and its frames in order.

A video that cannot be read as it stands is a ``VideoError`` with the reason; no frame is ever replaced by another.
Videos come from strangers: a file of a few hundred kB can hold a picture of many hundred MB. What is larger than the
limits is refused from its headers, before memory for a picture is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from taehv.params import DEFAULT_LIMITS, VideoLimits

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

Reason = Literal[
    "missing",
    "unreadable",
    "changed",
    "duplicate",
    "corrupt",
    "truncated",
    "no video stream",
    "unsupported",
    "too large",
    "too small",
    "too short",
]

# Files that only name other files (play lists) are not videos, whatever their suffix.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,mpeg,mpegts,ogg"


class VideoError(Exception):
    """A video that cannot be used."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


class FewerFramesError(Exception):
    """The decoder gave fewer frames than there are packets, without an error (some packets carry no picture)."""

    def __init__(self, frames: int) -> None:
        super().__init__(f"{frames} frames")
        self.frames = frames


@dataclass(frozen=True)
class VideoInfo:
    """What a look at the packets and the first picture tells."""

    frames: int
    """Pictures, one per packet that is to be shown."""
    promised_frames: int
    """Frames that the file's header announces; 0 where the format has no such field."""
    height: int
    """As shown, after rotation."""
    width: int
    rate: Fraction | None = None
    """Frames per second, the average where it varies; None where the file does not say it."""


def probe(path: Path, limits: VideoLimits = DEFAULT_LIMITS) -> VideoInfo:
    """Count a video's frames without decoding them, and decode the first for its size.

    Raises:
        VideoError: the file is not a video, has no video stream, is larger than the limits, is truncated, or its first
            frame does not decode.
    """
    with _open(path, limits) as (container, stream):
        packets = hidden = 0
        promised, rate = int(stream.frames), stream.average_rate or stream.guessed_rate
        if promised > limits.frames:
            raise VideoError("too large", f"the header promises {promised:,} frames, {limits.frames:,} are allowed")
        with _decoding_errors("its packets cannot be read", limits):
            for packet in container.demux(stream):
                packets += packet.size > 0
                hidden += packet.size > 0 and packet.is_discard
                if packets > limits.frames:
                    raise VideoError("too large", f"more than {limits.frames:,} frames")
    if packets < promised:
        raise VideoError("truncated", f"the header promises {promised} frames, {packets} can be read")
    height, width = next(_pictures(path, limits)).shape[:2]
    return VideoInfo(packets - hidden, promised, height, width, rate)


def read_frames(
    path: Path,
    info: VideoInfo,
    limits: VideoLimits = DEFAULT_LIMITS,
    *,
    stride: int,
    height: int,
    width: int,
    stop: int,
) -> Iterator[npt.NDArray[np.uint8]]:
    """Every ``stride``-th frame as (height, width, 3) RGB, ``stop`` of them; one frame is held at a time.

    Raises:
        VideoError: a frame does not decode or is larger than the limits, or fewer frames come than the header promises.
        FewerFramesError: the video ended early although nothing is wrong with it; ``info.frames`` was too high.
    """
    decoded = given = 0
    for picture in _pictures(path, limits, height, width):
        if decoded % stride == 0:
            yield picture
            given += 1
            if given == stop:
                return
        decoded += 1
    if info.promised_frames:
        raise VideoError("truncated", f"the header promises {info.promised_frames} frames, {decoded} can be decoded")
    raise FewerFramesError(decoded)


def _pictures(
    path: Path, limits: VideoLimits, height: int | None = None, width: int | None = None
) -> Iterator[npt.NDArray[np.uint8]]:
    """All frames as (H, W, 3) RGB, upright, scaled to ``height`` x ``width`` if given."""
    from av.video.reformatter import VideoReformatter

    number, size, reformatter = -1, None, VideoReformatter()
    with _open(path, limits) as (container, stream):
        frames = container.decode(stream)
        while True:
            with _decoding_errors(f"frame {number + 1} does not decode", limits):
                frame = next(frames, None)
            if frame is None:
                break
            number += 1
            if frame.is_corrupt:
                raise VideoError("corrupt", f"frame {number} is damaged")
            size = size or (frame.width, frame.height)
            if (frame.width, frame.height) != size:
                change = f"{size[0]}x{size[1]} to {frame.width}x{frame.height}"
                raise VideoError("unsupported", f"the picture changes its size from {change} at frame {number}")
            yield _upright_rgb(frame, reformatter, height, width)
    if number < 0:
        raise VideoError("corrupt", "no frame can be decoded")


def _upright_rgb(
    frame: VideoFrame, reformatter: VideoReformatter, height: int | None, width: int | None
) -> npt.NDArray[np.uint8]:
    from av.video.reformatter import Interpolation

    # Without processor-dependent short cuts every machine gets the same pixels; with the default ones all colours
    # are about one level too dark.
    exact = Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
    if frame.rotation % 90:
        raise VideoError("unsupported", f"the picture is turned by {frame.rotation} degrees")
    quarter_turns = frame.rotation // 90
    if quarter_turns % 2:
        height, width = width, height
    filter_ = Interpolation.BICUBIC | exact
    rgb = reformatter.reformat(frame, width, height, "rgb24", interpolation=filter_, threads=1).to_ndarray()
    # Phones store portrait video lying on its side; the rotation counts counter-clockwise, as rot90 does.
    upright: npt.NDArray[np.uint8] = np.rot90(rgb, quarter_turns)
    return upright


@contextmanager
def _open(path: Path, limits: VideoLimits) -> Iterator[tuple[InputContainer, VideoStream]]:
    import av  # only prepare_data decodes videos

    # Opening a video decodes its first frames, so that the limits must hold from here on.
    options = {
        "format_whitelist": _CONTAINERS,
        "max_streams": str(limits.streams + 1),  # one more is enough to see that there are too many
        "max_pixels": str(limits.pixels),
    }
    with _decoding_errors("it cannot be opened", limits):
        container = av.open(str(path), options=options, metadata_errors="replace")
    with container:
        if len(container.streams) > limits.streams:
            raise VideoError("too large", f"{len(container.streams)} streams, {limits.streams} are allowed")
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream):
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
            raise VideoError("no video stream", f"streams in the file: {kinds}")
        if stream.codec_context is None:
            raise VideoError("unsupported", "there is no decoder for its codec")
        _check_pixels(stream.codec_context.width, stream.codec_context.height, limits)
        # One thread per worker process: parallelism is over videos. Errors are raised instead of painted over.
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(limits.pixels)}
        yield container, stream


@contextmanager
def _decoding_errors(what: str, limits: VideoLimits) -> Iterator[None]:
    import av

    earlier = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # or a message that came before this block is not given again
    try:
        with av.logging.Capture() as messages:
            yield
    except av.error.FFmpegError as error:
        _check_limits("\n".join(message for _, _, message in messages), limits)
        raise VideoError("corrupt", f"{what}: {error.strerror}") from error
    except (IndexError, ValueError, OverflowError) as error:
        # PyAV's own: for example a packet of a stream that the header does not announce.
        raise VideoError("corrupt", f"{what}: {error}") from error
    finally:
        av.logging.set_level(earlier)


def _check_limits(log: str, limits: VideoLimits) -> None:
    """FFmpeg's errors do not say that a limit was the reason; its log does."""
    if "exceeds max_streams" in log:
        raise VideoError("too large", f"more than {limits.streams} streams")
    for width, height in re.findall(r"Picture size (\d+)x(\d+) (?:is invalid|exceeds)", log):
        _check_pixels(int(width), int(height), limits)


def _check_pixels(width: int, height: int, limits: VideoLimits) -> None:
    if width * height > limits.pixels:
        allowed = f"{limits.pixels:,} pixels are allowed"
        raise VideoError("too large", f"a picture of {width}x{height} is {width * height:,} pixels, {allowed}")
