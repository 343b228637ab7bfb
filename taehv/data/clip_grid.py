"""Where clips are cut: fixed grids in space and time that never look at pixels.

All of it is whole-number arithmetic on sizes, so that every machine cuts the same clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from taehv.runtime.thinning import thin


@dataclass(frozen=True, order=True)
class Box:
    """The corner of a clip: its first frame (counted after the frame stride) and its upper left pixel."""

    start: int
    top: int
    left: int


@dataclass(frozen=True)
class Extent:
    """How long and large something is, in frames (after the frame stride) and pixels."""

    frames: int
    height: int
    width: int


def spread(count: int, length: int, size: int) -> list[int]:
    """``count`` starts of pieces of ``size`` within ``length``, evenly spread from border to border; one is centred."""
    slack = length - size
    if count == 1:
        return [slack // 2]
    return [i * slack // (count - 1) for i in range(count)]


def covering(length: int, size: int) -> int:
    """The smallest number of pieces of ``size`` that together cover ``length``."""
    return -(-length // size)


def cover_size(height: int, width: int, canvas_height: int, canvas_width: int) -> tuple[int, int]:
    """Height and width of the frame scaled down, keeping its proportions, until it just covers the canvas.

    The frame must be at least as large as the canvas: nothing is ever scaled up.
    """
    if canvas_height * width >= canvas_width * height:
        return canvas_height, max(canvas_width, _rounded(width * canvas_height, height))
    return max(canvas_height, _rounded(height * canvas_width, width)), canvas_width


def training_boxes(part: Extent, canvas: Extent, *, at_most: int, whole_frame: bool) -> list[Box]:
    """Canvases that together cover a part of a video in space and time, thinned evenly to ``at_most``.

    Args:
        part: the frames to cover, and their size; at least as long and large as the canvas.
        canvas: what is stored of it at a time.
        at_most: the largest number of boxes.
        whole_frame: cut tiles until the frame is covered; otherwise take one centred canvas per time window.
    """
    starts = spread(covering(part.frames, canvas.frames), part.frames, canvas.frames)
    rows = covering(part.height, canvas.height) if whole_frame else 1
    columns = covering(part.width, canvas.width) if whole_frame else 1
    corners = _corners(part, canvas, rows, columns)
    return [Box(starts[time], *corners[place]) for time, place in thin(len(starts), len(corners), at_most)]


def held_out_boxes(part: Extent, clip: Extent, count: int) -> list[Box]:
    """Exactly ``count`` different clips on a fixed grid over a validation or test part.

    As many times as fit without overlap (at most ``count``), and at each time a grid of places whose proportions
    follow the frame's. Where the frame leaves too few different places, times overlap instead; fewer boxes than
    ``count`` come back only if the part does not hold that many different clips.
    """
    slack = Extent(part.frames - clip.frames, part.height - clip.height, part.width - clip.width)
    different_places = (slack.height + 1) * (slack.width + 1)
    times = min(max(part.frames // clip.frames, 1), count)
    places = covering(count, times)
    if places > different_places:
        places = different_places
        times = min(covering(count, places), slack.frames + 1)
    rows, columns = _rows_and_columns(places, part, slack)
    starts = spread(times, part.frames, clip.frames)
    corners = _corners(part, clip, rows, columns)
    return [Box(starts[time], *corners[place]) for time, place in thin(times, len(corners), count)]


def _corners(part: Extent, piece: Extent, rows: int, columns: int) -> list[tuple[int, int]]:
    tops, lefts = spread(rows, part.height, piece.height), spread(columns, part.width, piece.width)
    return [(top, left) for top in tops for left in lefts]


def _rows_and_columns(places: int, part: Extent, slack: Extent) -> tuple[int, int]:
    """A grid of at least ``places``, all different, with columns / rows nearest to the frame's width / height."""
    grids = [(rows, covering(places, rows)) for rows in range(1, min(places, slack.height + 1) + 1)]
    fitting = [(rows, columns) for rows, columns in grids if columns <= slack.width + 1]
    return min(fitting, key=lambda grid: (_times_apart(grid[1] * part.height, grid[0] * part.width), grid))


def _times_apart(a: int, b: int) -> Fraction:
    return Fraction(max(a, b), min(a, b))


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)
