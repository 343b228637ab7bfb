"""Whether a file ends where its container says.

FFmpeg itself tells for most containers: it flags the packet that is cut off, or says that the file ended prematurely.
For these it says nothing, and a file that is cut off would pass as a whole, shorter one.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from taehv.data.video_error import VideoError

_TS_SYNC = 0x47
_TS_PACKETS = (188, 192, 204)
"""Bytes of a packet: plain, with a time code before it (Blu-ray, AVCHD), with error correction behind it."""
_ASF_UNSIZED = 24
"""Bytes of an object's own header; a live stream's data object is given as no longer than that."""
_ASF_BROADCAST_LIMIT = 2**62
_OGG_HEADER = 27
_OGG_LONGEST_PAGE = 65_307
_RIFF_UNSIZED = (0, 0xFFFFFFFF)
"""What a writer that cannot go back leaves as the size."""


def missing(path: Path, container: str) -> VideoError | None:
    """What is missing in a file of FFmpeg's ``container`` (a demuxer's name); None where nothing is.

    Raises:
        OSError: the file cannot be read.
    """
    check = {"ogg": _ogg, "mpegts": _mpegts, "asf": _asf, "avi": _avi, "gif": _gif}.get(container)
    if check is None:
        return None
    with path.open("rb") as file:
        return check(file, path.stat().st_size)


def _ogg(file: BinaryIO, size: int) -> VideoError | None:
    """RFC 3533: pages, each with a table of its segments' lengths; the last one must be whole."""
    start = max(0, size - 2 * _OGG_LONGEST_PAGE)
    file.seek(start)
    tail = file.read()
    place = tail.rfind(b"OggS")
    if place < 0:
        return None
    page = tail[place:]
    segments = page[_OGG_HEADER - 1] if len(page) >= _OGG_HEADER else 0
    table = page[_OGG_HEADER : _OGG_HEADER + segments]
    needed = _OGG_HEADER + segments + sum(table)
    if len(page) < _OGG_HEADER or len(table) < segments or len(page) < needed:
        return _cut_off("its last page is not all there")
    return None


def _mpegts(file: BinaryIO, size: int) -> VideoError | None:
    """ISO/IEC 13818-1: packets of equal length, each beginning with 0x47."""
    head = file.read(16 * max(_TS_PACKETS))
    for length in _TS_PACKETS:
        for first in range(length):
            beats = range(first, min(len(head), first + 8 * length), length)
            if len(beats) > 1 and all(head[place] == _TS_SYNC for place in beats):
                if not (np.memmap(file, np.uint8, "r")[first::length] == _TS_SYNC).all():
                    return VideoError("corrupt", "its packets are out of step: bytes are missing or too many")
                # The time code of a 192-byte packet comes before its sync byte.
                begin = first - 4 if length == 192 else first
                rest = (size - begin) % length
                return _cut_off(f"its last packet has {rest} of {length} bytes") if rest else None
    return None


def _asf(file: BinaryIO, size: int) -> VideoError | None:
    """Advanced Systems Format: objects of a 16-byte name and a length of 8 bytes, one after the other."""
    place = 0
    while place + _ASF_UNSIZED <= size:
        file.seek(place + 16)
        length = int.from_bytes(file.read(8), "little")
        if length <= _ASF_UNSIZED or length > _ASF_BROADCAST_LIMIT:
            return None
        if place + length > size:
            return _cut_off(f"{place + length} bytes are announced, {size} are there")
        place += length
    return None


def _avi(file: BinaryIO, size: int) -> VideoError | None:
    """RIFF: a name, a length of 4 bytes, and so many bytes (plus one where it is odd)."""
    announced = int.from_bytes(file.read(8)[4:], "little")
    if announced in _RIFF_UNSIZED or announced + 8 <= size:
        return None
    return _cut_off(f"{announced + 8} bytes are announced, {size} are there")


def _gif(file: BinaryIO, size: int) -> VideoError | None:
    """GIF89a: the last byte is a semicolon; zeros behind it do no harm."""
    file.seek(max(0, size - 512))
    return None if file.read().rstrip(b"\0").endswith(b";") else _cut_off("its end mark is missing")


def _cut_off(detail: str) -> VideoError:
    return VideoError("truncated", detail)
