"""What tells that frames of a video are damaged.

Not the counts in its header (edit lists, empty samples and frames that lean on something before a cut make them
differ from what is shown), and not FFmpeg's strict mode (it refuses intact videos, and lets damage through that FFmpeg
itself reports). What does tell:

- a packet that the demuxer flags as corrupt, or an error that the demuxer reports;
- fewer packets than entries in the file's own index;
- a frame whose decoding ends with an error, is flagged, or is reported as an error in FFmpeg's log.

Frames before the first one that can be shown (after a cut without re-encoding) do not count: no player shows them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taehv.data.video_error import VideoError

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Message = tuple[int, str, str]
"""Level, who says it, and what."""

_NOT_ABOUT_FRAMES = re.compile(
    r"\bSEI\b"  # supplemental information: captions, encoder settings
    r"|mmco: |Overread VUI|unable to decode APP fields"
    r"|decode_picture_timing|decode_buffering_period"
)
"""Errors of decoders that change no frame. ``mmco``: to forget a frame that is not there, as after a cut."""
_NOT_ABOUT_PACKETS = re.compile(
    r"Missing key frame while searching|Cannot find an index entry before"  # an edit list that begins after a key frame
    r"|Error parsing Opus|[Ss]ubtitle|attachment|chapter"
)
"""Errors of demuxers that concern no frame."""


@contextmanager
def captured_log() -> Iterator[list[Message]]:
    """FFmpeg's errors while the block runs (in this thread); the list grows meanwhile."""
    import av

    earlier = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # or a message that came before this block is not given again
    try:
        with av.logging.Capture() as messages:
            yield messages
    finally:
        av.logging.set_level(earlier)


def demuxer_error(messages: Sequence[Message], container: str) -> str | None:
    """The first error about packets that the demuxer of ``container`` reported."""
    for _, who, text in messages:
        if who == container and not _NOT_ABOUT_PACKETS.search(text):
            return text.strip()
    return None


def decoder_error(messages: Sequence[Message]) -> str | None:
    """The first error about frames."""
    return next((text.strip() for _, _, text in messages if not _NOT_ABOUT_FRAMES.search(text)), None)


@dataclass
class Watch:
    """Looks at each packet and frame of a stream in the order of decoding, and raises at the first damage."""

    shown: int = 0
    """Frames so far."""
    _first: int | None = None
    """When the first one is shown."""
    _forgiven: dict[int, str] = field(default_factory=dict)
    """By time: errors of frames that came before the first one that can be shown, if they are not shown."""

    def packet(self, packet: Packet[VideoStream] | None, error: str | None) -> None:
        """Take note of a packet that was decoded (None: the end), with its error.

        Raises:
            VideoError: it is damaged.
        """
        if error is None:
            return
        if self.shown or packet is None or packet.is_keyframe:
            raise VideoError("corrupt", f"frame {self.shown} does not decode: {error}")
        if packet.pts is not None:
            self._forgiven[packet.pts] = error

    def frame(self, frame: VideoFrame) -> None:
        """Take note of a frame that is to be shown.

        Raises:
            VideoError: it is damaged, or one before it was lost.
        """
        if frame.is_corrupt:
            raise VideoError("corrupt", f"frame {self.shown} is damaged")
        if frame.pts is not None:
            self._first = frame.pts if self._first is None else self._first
            self._check_forgiven(frame.pts)
        self.shown += 1

    def end(self) -> None:
        """Take note that there are no more frames.

        Raises:
            VideoError: a frame was lost, or there was none.
        """
        if not self.shown:
            reason = next(iter(self._forgiven.values()), None)
            raise VideoError("corrupt", "no frame can be decoded" + (f": {reason}" if reason else ""))
        self._check_forgiven(None)

    def _check_forgiven(self, until: int | None) -> None:
        for time, error in self._forgiven.items():
            if self._first is not None and time >= self._first and (until is None or time <= until):
                raise VideoError("corrupt", f"frame {self.shown} does not decode: {error}")
