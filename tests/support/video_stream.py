"""What a video file really holds, read without the code that wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

KR, KB = 0.2126, 0.0722
"""Shares of red and blue in the luma of BT.709 (ITU-R BT.709-6, 3.2)."""


def planes_as_rgb(path: Path) -> npt.NDArray[np.float64]:
    """The first frame, (H, W, 3) in 0..255, by BT.709's equations in limited range."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    tall, wide = frame.height, frame.width
    y, u, v = (np.asarray(plane, np.float64) for plane in _planes(frame, tall, wide))
    y, u, v = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    red, blue = y + 2 * (1 - KR) * v, y + 2 * (1 - KB) * u
    green = (y - KR * red - KB * blue) / (1 - KR - KB)
    return 255 * np.stack([red, green, blue], -1)


def _planes(frame: Any, tall: int, wide: int) -> list[npt.NDArray[np.uint8]]:
    packed = frame.to_ndarray()
    if frame.format.name == "yuv444p":
        return list(packed)
    assert frame.format.name == "yuv420p"
    half = [packed.reshape(-1)[tall * wide :].reshape(2, tall // 2, wide // 2)[i] for i in (0, 1)]
    return [packed[:tall], *(plane.repeat(2, 0).repeat(2, 1) for plane in half)]


def tags_of(path: Path) -> set[tuple[int, int, int, int]]:
    """Primaries, transfer, matrix and range, as the container, the codec and the frame say them."""
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        frame = next(container.decode(video=0))
    read = [(it.color_primaries, it.color_trc, it.colorspace, it.color_range) for it in (codec, frame)]
    return {(int(a), int(b), int(c), int(d)) for a, b, c, d in read}
