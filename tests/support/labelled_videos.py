"""Videos whose frames say who they are and which way up, through any codec: made by FFmpeg's encoders and muxers.

A frame shows its number as eight bars in the middle (bright = 1, most significant on the left), and in its corners red,
green, blue and yellow (top left, top right, bottom left, bottom right).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

RgbFrame = npt.NDArray[np.uint8]

HEIGHT, WIDTH = 80, 112
CORNERS = {"red": (200, 40, 40), "green": (40, 180, 40), "blue": (40, 60, 200), "yellow": (220, 200, 30)}
BITS = 8


def labelled_frame(number: int, height: int = HEIGHT, width: int = WIDTH) -> RgbFrame:
    """A frame (H, W, 3) with its number and its corners."""
    frame = np.full((height, width, 3), 128, np.uint8)
    rows, columns = height // 4, width // 4
    frame[:rows, :columns], frame[:rows, -columns:] = CORNERS["red"], CORNERS["green"]
    frame[-rows:, :columns], frame[-rows:, -columns:] = CORNERS["blue"], CORNERS["yellow"]
    bar = width // BITS
    for place in range(BITS):
        bright = number >> (BITS - 1 - place) & 1
        frame[rows + 4 : -rows - 4, place * bar : (place + 1) * bar] = 220 if bright else 30
    return frame


def number_of(frame: RgbFrame) -> int:
    """The number that an upright frame shows."""
    height, width = frame.shape[:2]
    bar = width // BITS
    levels = [
        frame[height // 2 - 2 : height // 2 + 2, place * bar + bar // 4 : (place + 1) * bar - bar // 4].mean()
        for place in range(BITS)
    ]
    return sum((level > 125) << (BITS - 1 - place) for place, level in enumerate(levels))


def corners_of(frame: RgbFrame) -> tuple[str, str, str, str]:
    """The names of the colours in the corners: top left, top right, bottom left, bottom right."""
    places = frame[4, 4], frame[4, -5], frame[-5, 4], frame[-5, -5]
    first, second, third, fourth = (
        min(CORNERS, key=lambda name: int(np.abs(place.astype(int) - CORNERS[name]).sum())) for place in places
    )
    return first, second, third, fourth


def make_video(
    path: Path,
    frames: int | Sequence[int] = 60,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: Fraction | int = 25,
    times: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    format: str | None = None,
    options: Mapping[str, str] | None = None,
    muxer: Mapping[str, str] | None = None,
    tags: Mapping[str, int] | None = None,
    display: Sequence[int] | None = None,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    av_frames: Iterable[av.VideoFrame] | None = None,
) -> Path:
    """Encode labelled frames.

    Args:
        frames: how many, or the numbers that they show.
        times, time_base: when each is shown; at ``rate`` unless given.
        format: the container; from the suffix unless given.
        options, muxer: of the encoder and of the container.
        tags: attributes of the encoder (colorspace, color_trc, ...).
        display: the display matrix, nine numbers.
        size: height and width.
        av_frames: frames to encode in place of labelled ones, in ``pixels``' format.
    """
    height, width = size
    numbers = range(frames) if isinstance(frames, int) else frames
    base = time_base or 1 / Fraction(rate)
    merged = {"fflags": "+bitexact"} | dict(muxer or {})
    with av.open(f"file:{path}", "w", format=format, options=merged) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.time_base = base
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if display is not None:
            stream.set_display_matrix(display)
        made = av_frames or (
            av.VideoFrame.from_ndarray(labelled_frame(number, height, width), format="rgb24").reformat(format=pixels)
            for number in numbers
        )
        for place, frame in enumerate(made):
            frame.pts = times[place] if times else place
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def copied(source: Path, target: Path, *, first: int = 0, format: str | None = None) -> Path:
    """The packets of a video from number ``first`` (in the order of decoding) on, without encoding them again."""
    with av.open(f"file:{source}") as given, av.open(f"file:{target}", "w", format=format) as container:
        stream = given.streams.video[0]
        copy = container.add_stream_from_template(stream)
        packets = [packet for packet in given.demux(stream) if packet.size]
        for packet in packets[first:]:
            packet.stream = copy
            container.mux(packet)
    return target


def key_packets(path: Path) -> list[int]:
    """The numbers of the packets with which decoding can begin."""
    with av.open(f"file:{path}") as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
    return [number for number, packet in enumerate(packets) if packet.is_keyframe]


def edited(path: Path, edits: Sequence[tuple[int, int]], rate: int = 25) -> Path:
    """Give an MP4 (its table of contents at the end) another edit list: (first frame, frames) each, -1 for a pause."""
    data = path.read_bytes()
    with av.open(f"file:{path}") as container:
        ticks = container.streams.video[0].time_base.denominator // rate  # type: ignore[union-attr]
        delay = min(packet.pts for packet in container.demux(video=0) if packet.pts is not None)
    media_start = int.from_bytes(data[data.index(b"elst") + 16 :][:4], "big") - delay
    table = b"".join(
        (1000 * count // rate).to_bytes(4, "big")
        + (0xFFFFFFFF if first < 0 else media_start + first * ticks).to_bytes(4, "big")
        + b"\0\1\0\0"
        for first, count in edits
    )
    place = data.index(b"elst") - 4
    old = int.from_bytes(data[place : place + 4], "big")
    box = b"elst" + bytes(4) + len(edits).to_bytes(4, "big") + table
    changed = bytearray(data[:place] + (len(box) + 4).to_bytes(4, "big") + box + data[place + old :])
    for name in (b"edts", b"trak", b"moov"):
        at = data.index(name) - 4
        size = int.from_bytes(changed[at : at + 4], "big")
        changed[at : at + 4] = (size + len(box) + 4 - old).to_bytes(4, "big")
    path.write_bytes(bytes(changed))
    return path
