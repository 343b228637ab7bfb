"""Opening a video file with PyAV, within limits: its packets, and decoding one of them.

Videos come from strangers: a file of a few hundred kB can hold a frame of many hundred MB. What is larger than the
limits is refused from its headers, before memory for a frame is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from taehv.config.params import VideoLimits
from taehv.data.damage import Message, captured_log, decoder_error
from taehv.data.video_error import VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Files that only name other files (play lists) are not videos, whatever their suffix.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,mpeg,mpegts,ogg,gif,apng"


@dataclass(frozen=True)
class OpenedVideo:
    """A file that is being read."""

    container: InputContainer
    stream: VideoStream
    limits: VideoLimits
    log: Sequence[Message]
    """What FFmpeg reported as errors while it was opened."""

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """The packets of the video stream that hold something."""
        import av

        try:
            # An empty one would tell the decoder that the video has ended.
            yield from (packet for packet in self.container.demux(self.stream) if packet.size > 0)
        except av.error.FFmpegError as error:
            raise VideoError("corrupt", f"its packets cannot be read: {error.strerror}") from error

    def packets_and_end(self) -> Iterator[Packet[VideoStream] | None]:
        """The same, and None at the end, which makes the decoder give what it still holds."""
        yield from self.packets()
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
def opened_video(path: Path, limits: VideoLimits) -> Iterator[OpenedVideo]:
    """Open a file and find its video stream.

    Raises:
        VideoError: it is not a video, has no video stream that can be decoded, or is larger than the limits.
    """
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
        yield OpenedVideo(container, stream, limits, log)


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
        raise VideoError("too large", f"a frame of {width}x{height} is {width * height:,} pixels, {allowed}")
