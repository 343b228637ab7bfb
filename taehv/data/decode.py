"""Reading videos with PyAV: what a video is, and its frames in order.

A video that cannot be read as it stands is a ``VideoError`` with the reason; no frame is ever replaced by another.
Videos come from strangers: a file of a few hundred kB can hold a picture of many hundred MB. What is larger than the
limits is refused from its headers, before memory for a picture is taken.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from taehv.data.container_end import missing
from taehv.data.damage import Message, Watch, captured_log, decoder_error, demuxer_error
from taehv.data.interlacing import WINDOW, Deinterlacer, FieldOrder, field_order
from taehv.data.pictures import PictureMaker
from taehv.data.video_error import VideoError
from taehv.params import DEFAULT_LIMITS, NO_CONVERSIONS, Conversions, VideoLimits

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Files that only name other files (play lists) are not videos, whatever their suffix.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,mpeg,mpegts,ogg,gif,apng"
_WITHOUT_FIELDS = ("gif", "apng")
"""Their pictures are never interlaced, but dithered, which can look so."""
_LOOKED_AT = (Fraction(0), Fraction(1, 3), Fraction(2, 3))
"""Where in the video pictures are looked at for interlacing."""
_MOST_REORDERED = 32
"""Places that a frame may move between decoding and showing; the standards allow 16. Beyond it a clock was set back."""
_LARGEST_DENOMINATOR = 100_000
"""Of an average rate: an MP4's clock takes it, and a rate of 240 is right to 1 in 10^7."""


class FewerFramesError(Exception):
    """The decoder gave fewer frames than there are packets, without an error (some packets carry no picture)."""

    def __init__(self, frames: int) -> None:
        super().__init__(f"{frames} frames")
        self.frames = frames


@dataclass(frozen=True)
class VideoInfo:
    """What a look at the packets and some pictures tells."""

    frames: int
    """Pictures, one per packet that is to be shown."""
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
    last_duration: int
    """Of the last frame, in ticks; 0 where the file does not say it."""

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
        packets = _survey(path, limits)
        first = next(_frames(path, limits))
        height, width = PictureMaker(conversions.hdr).picture(first).shape[:2]
        fields = _fields(path, limits, packets)
    if fields and conversions.interlaced == "exclude":
        raise VideoError(
            "interlaced",
            "its pictures are interlaced; data.interlaced: deinterlace (--interlaced deinterlace) mends them",
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
        packets = _survey(path, limits)
        first = next(_frames(path, limits))
    shown = packets.shown_from(first.pts)
    if packets.times is None or packets.clock_set_back or len(shown) < info.frames:
        return None
    ticks = shown[: info.frames]
    return FrameTimes(ticks - ticks[0], packets.time_base, packets.last_duration)


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
    maker = PictureMaker(conversions.hdr, height, width)
    with _errors_of_one_video():
        frames = _frames(path, limits)
        for frame in _deinterlaced(frames, info.fields) if info.fields else frames:
            if decoded % stride == 0:
                yield maker.picture(frame)
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


@dataclass(frozen=True)
class _Packets:
    """The packets of a video that are to be shown."""

    count: int
    times: npt.NDArray[np.int64] | None
    """When they are shown, ascending; None where the file does not say it of all of them."""
    clock_set_back: bool
    """Whether packets follow each other in another order than they are shown in, farther apart than any codec does."""
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


def _survey(path: Path, limits: VideoLimits) -> _Packets:
    """Read all packets, and see whether all are there and whole."""
    import av

    with _open(path, limits) as opened, captured_log() as log:
        stream = opened.stream
        promised = max(int(stream.frames), len(stream.index_entries))
        if promised > limits.frames:
            raise VideoError("too large", f"the header promises {promised:,} frames, {limits.frames:,} are allowed")
        listed = sum(entry.size > 0 for entry in stream.index_entries)
        times, found, last, timed, cut = array("q"), 0, (-(2**63), 0), True, False
        seen_key = False
        try:
            for packet in opened.packets():
                found += 1
                if found > limits.frames:
                    raise VideoError("too large", f"more than {limits.frames:,} frames")
                seen_key = seen_key or packet.is_keyframe
                if cut:
                    raise VideoError("corrupt", f"packet {found - 2} is flagged as damaged")
                cut = packet.is_corrupt and seen_key
                if packet.is_discard:
                    continue
                if packet.pts is None:
                    timed = False
                    times.append(0)
                else:
                    times.append(packet.pts)
                    last = max(last, (packet.pts, packet.duration or 0))
        except av.error.FFmpegError as error:
            raise VideoError("corrupt", f"its packets cannot be read: {error.strerror}") from error
        _check_whole(path, opened, [*opened.log, *log], cut, found, listed)
        rates = (stream.average_rate, stream.guessed_rate)
        assert stream.time_base is not None
        given = np.frombuffer(times, np.int64)
        order = np.argsort(given, kind="stable")
        return _Packets(
            len(times),
            given[order] if timed and times else None,
            bool(np.any(np.abs(order - np.arange(len(order))) > _MOST_REORDERED)),
            stream.time_base,
            last[1],
            tuple(rate for rate in rates if rate),
        )


def _check_whole(path: Path, opened: _Opened, log: Sequence[Message], cut: bool, found: int, listed: int) -> None:
    """See that nothing is missing: ``found`` packets of ``listed`` in the index; ``cut`` is whether the last one is."""
    if found < listed:
        raise VideoError("truncated", f"its index lists {listed} pictures, {found} can be read")
    if cut:
        raise VideoError("truncated", f"its last picture, the {found}th, is cut off")
    name = opened.container.format.name
    error = demuxer_error(log, name)
    if error:
        raise VideoError("truncated" if re.search("premature|partial|[Tt]runcat", error) else "corrupt", error)
    problem = missing(path, name)
    if problem is not None:
        raise problem


def _frames(path: Path, limits: VideoLimits) -> Iterator[VideoFrame]:
    """All frames that are to be shown, in order, as they were decoded."""
    watch, size = Watch(), None
    with _open(path, limits) as opened:
        for packet in opened.packets_and_end():
            frames, error = opened.decode(packet)
            watch.packet(packet, error)
            for frame in frames:
                watch.frame(frame)
                size = size or (frame.width, frame.height)
                if (frame.width, frame.height) != size:
                    change = f"{size[0]}x{size[1]} to {frame.width}x{frame.height}"
                    raise VideoError(
                        "unsupported", f"the picture changes its size from {change} at frame {watch.shown}"
                    )
                yield frame
    watch.end()


def _deinterlaced(frames: Iterator[VideoFrame], order: FieldOrder) -> Iterator[VideoFrame]:
    deinterlacer = Deinterlacer(order)
    for frame in frames:
        yield from deinterlacer.push(frame)
    yield from deinterlacer.finish()


def _fields(path: Path, limits: VideoLimits, packets: _Packets) -> FieldOrder | None:
    """Look at some pictures for interlacing. Damage is not looked for here: it is found when they are read."""

    def window(where: Fraction) -> Iterator[VideoFrame]:
        with _open(path, limits) as opened:
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

    with _open(path, limits) as opened:
        if opened.container.format.name in _WITHOUT_FIELDS:
            return None
    places = _LOOKED_AT if packets.times is not None and packets.count > WINDOW else _LOOKED_AT[:1]
    return field_order(islice(window(where), WINDOW) for where in places)


@dataclass(frozen=True)
class _Opened:
    """A file that is being read."""

    container: InputContainer
    stream: VideoStream
    limits: VideoLimits
    log: Sequence[Message]
    """What FFmpeg reported as errors while it was opened."""

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """The packets of the video stream that hold something."""
        # An empty one would tell the decoder that the video has ended.
        return (packet for packet in self.container.demux(self.stream) if packet.size > 0)

    def packets_and_end(self) -> Iterator[Packet[VideoStream] | None]:
        """The same, and None at the end, which makes the decoder give what it still holds."""
        import av

        try:
            yield from self.packets()
        except av.error.FFmpegError as error:
            raise VideoError("corrupt", f"its packets cannot be read: {error.strerror}") from error
        yield None

    def decode(self, packet: Packet[VideoStream] | None) -> tuple[list[VideoFrame], str | None]:
        """The frames that are ready once the packet is decoded, and what is wrong with the packet."""
        with captured_log() as log:
            try:
                frames, failed = self.stream.decode(packet), None
            except Exception as error:
                # Whatever the decoder says, it says it about this video.
                frames, failed = [], getattr(error, "strerror", None) or str(error)
        if not log and failed is None:
            return frames, None
        _check_limits(log, self.limits)
        return frames, decoder_error(log) or failed

    def seek(self, time: int) -> None:
        """Go on from the last key frame before ``time``; stays where it is where the container cannot do that."""
        import av

        with suppress(av.error.FFmpegError):
            self.container.seek(time, stream=self.stream)


@contextmanager
def _open(path: Path, limits: VideoLimits) -> Iterator[_Opened]:
    import av  # only prepare_data decodes videos

    # Opening a video decodes its first frames, so that the limits must hold from here on.
    options = {
        "format_whitelist": CONTAINERS,
        "max_streams": str(limits.streams + 1),  # one more is enough to see that there are too many
        "max_pixels": str(limits.pixels),
    }
    with captured_log() as log:
        try:
            # "file:" makes every name a file's: one with a colon would be taken for an address otherwise.
            container = av.open(f"file:{path}", options=options, metadata_errors="replace")
        except Exception as error:
            _check_limits(log, limits)
            raise _not_opened(error, log) from error
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
        # One thread per worker process: parallelism is over videos.
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        # Look closely and report what is wrong, but go on: what that means is decided in damage.py.
        stream.codec_context.options = {"err_detect": "crccheck+bitstream+buffer", "max_pixels": str(limits.pixels)}
        yield _Opened(container, stream, limits, log)


def _not_opened(error: Exception, log: Sequence[Message]) -> VideoError:
    if any("not on whitelist" in text for _, _, text in log):
        return VideoError("unsupported", f"it is not a supported container; supported: {CONTAINERS.replace(',', ', ')}")
    return VideoError("corrupt", f"it cannot be opened: {getattr(error, 'strerror', None) or error}")


def _check_limits(log: Sequence[Message], limits: VideoLimits) -> None:
    """FFmpeg's errors do not say that a limit was the reason; its log does."""
    text = "\n".join(text for _, _, text in log)
    if "exceeds max_streams" in text:
        raise VideoError("too large", f"more than {limits.streams} streams")
    for width, height in re.findall(r"Picture size (\d+)x(\d+) (?:is invalid|exceeds)", text):
        _check_pixels(int(width), int(height), limits)


def _check_pixels(width: int, height: int, limits: VideoLimits) -> None:
    if width * height > limits.pixels:
        allowed = f"{limits.pixels:,} pixels are allowed"
        raise VideoError("too large", f"a picture of {width}x{height} is {width * height:,} pixels, {allowed}")
