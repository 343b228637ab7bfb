"""Whether a video is interlaced, measured on its frames: many are flagged wrongly, both ways.

An interlaced frame holds two moments, one in the even and one in the odd lines. Where something has moved between
them its lines alternate, like a comb. Hardly anything else in a natural frame does: in the progressive sample videos
not one of a million points is combed; of the same videos woven into fields, 33 to 100 % of the frames are combed ones
by the limits below.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from taehv.data.video_error import VideoError

if TYPE_CHECKING:
    from av.filter import Graph
    from av.video.frame import VideoFrame

FieldOrder = Literal["tff", "bff", "auto"]
"""Top (even lines) or bottom (odd lines) field first, or as each frame is flagged; FFmpeg's names."""

WINDOW = 12
"""Successive frames that are looked at in one place: more than twice the five of a film shown at 30 frames a
second, of which two are interlaced."""
_SHARE = 0.25
"""Of the frames of one window that must be combed."""
_COLUMNS = 4
"""Pixels in a row that are averaged first: a comb's teeth are wider than grain and dither."""
_BLOCKS = 160
"""Such averages per line, at least, where the frame is wide enough; more tell nothing new and cost time."""
_TEETH = 6
"""Lines in a row that must alternate."""
_STEP = 12
"""Grey levels between neighbouring lines of a comb, at least; between lines of one field there are less."""
_COMBED = 0.0005
"""Share of a frame's points that makes it a combed one: 0.05 %, a square of 15 x 15 in 720 x 576."""


def field_order(windows: Iterable[Iterable[VideoFrame]]) -> FieldOrder | None:
    """The order of the fields of an interlaced video; None where it is progressive, or nothing moves.

    Args:
        windows: successive frames of one size from several places of the video; few are held at a time.
    """
    interlaced, orders = False, Counter[str]()
    for window in windows:
        seen = combed = 0
        for frame in _ordered(window, orders):
            seen += 1
            combed += combed_share(_grey(frame)) > _COMBED
        interlaced = interlaced or (combed > 0 and combed >= _SHARE * seen)
    if not interlaced:
        return None
    if orders["tff"] == orders["bff"]:
        return "auto"
    return "tff" if orders["tff"] > orders["bff"] else "bff"


def combed_share(lines: npt.NDArray[np.uint8]) -> float:
    """The share of points of a grey frame (H, W) that belong to a comb."""
    height, blocks = lines.shape[0], lines.shape[1] // _COLUMNS
    if height < _TEETH + 2 or not blocks:
        return 0.0
    every = _COLUMNS * max(1, blocks // _BLOCKS)
    columns = [lines[:, first : _COLUMNS * blocks : every] for first in range(_COLUMNS)]
    grey: npt.NDArray[np.float32] = np.mean(columns, axis=0, dtype=np.float32)
    step = grey[1:] - grey[:-1]
    large = np.abs(step) > _STEP
    tooth = large[1:] & large[:-1] & (step[1:] * step[:-1] < 0) & (np.abs(grey[2:] - grey[:-2]) < _STEP)
    places = len(tooth) - _TEETH + 1
    comb = np.logical_and.reduce([tooth[first : first + places] for first in range(_TEETH)])
    return float(comb.mean())


class Deinterlacer:
    """Frames in, as many progressive frames out (FFmpeg's bwdif), one behind."""

    def __init__(self, order: FieldOrder) -> None:
        self._order = order
        self._graph: Graph | None = None

    def push(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """The next frame."""
        if self._graph is None:
            self._graph = filter_graph(frame, "bwdif", mode="send_frame", parity=self._order, deint="all")
        self._graph.push(frame)
        yield from pulled(self._graph)

    def finish(self) -> Iterator[VideoFrame]:
        """What is left."""
        if self._graph is not None:
            self._graph.push(None)
            yield from pulled(self._graph)


def filter_graph(frame: VideoFrame, name: str, **options: str) -> Graph:
    """One of FFmpeg's filters for frames like this one.

    Raises:
        VideoError: it does not take such frames.
    """
    import av
    from av.filter import Graph

    try:
        graph = Graph()
        graph.threads = 1
        base = frame.time_base or Fraction(1, 1000)  # some frames have no times, and none are looked at here
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=base)
        graph.link_nodes(source, graph.add(name, **options), graph.add("buffersink")).configure()
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(
            "unsupported", f"{name} cannot be used on its frames ({frame.format.name}): {error}"
        ) from error
    return graph


def pulled(graph: Graph) -> Iterator[VideoFrame]:
    """The frames that are ready."""
    import av

    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _grey(frame: VideoFrame) -> npt.NDArray[np.uint8]:
    """The brightness, lines untouched: as stored where it is a plane of bytes."""
    if frame.format.components[0].bits == 8 and frame.format.is_planar and not frame.format.is_rgb:
        plane = frame.planes[0]
        return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
    return frame.reformat(format="gray").to_ndarray().astype(np.uint8, copy=False)


def _ordered(window: Iterable[VideoFrame], orders: Counter[str]) -> Iterator[VideoFrame]:
    """The frames; meanwhile, which field comes first in each is counted, as FFmpeg's idet sees it."""
    graph: Graph | None = None
    for frame in window:
        graph = graph or filter_graph(frame, "idet")
        graph.push(frame)
        orders.update(measured.metadata["lavfi.idet.single.current_frame"] for measured in pulled(graph))
        yield frame
