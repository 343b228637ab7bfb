"""Decoded frames as RGB arrays, as a player shows them: upright, whole, in the right colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from taehv.config.params import HdrRule
from taehv.data.interlacing import filter_graph
from taehv.data.tone_map import Transfer, tone_mapped
from taehv.data.video_error import VideoError

if TYPE_CHECKING:
    from av.filter import Graph
    from av.video.frame import VideoFrame

_HDR_TRANSFERS: Mapping[int, Transfer] = {16: "pq", 18: "hlg"}
"""By FFmpeg's AVColorTransferCharacteristic, which is ITU-T H.273's."""
_HDR_NAMES: Mapping[Transfer, str] = {"pq": "PQ (SMPTE ST 2084)", "hlg": "HLG (ARIB STD-B67)"}
_UNKNOWN_MATRICES = {
    8: "YCgCo",
    10: "BT.2020 with constant luminance",
    11: "SMPTE ST 2085",
    12: "chromaticity-derived",
    13: "chromaticity-derived with constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
"""Matrices of ITU-T H.273 that FFmpeg's scaler does not know."""
_LARGEST_SKEW = 0.02
"""Of a display matrix's other entries against its largest: about one degree, as in FFmpeg."""


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways in which a frame can be stored: transposed or not, then either axis mirrored."""

    transposed: bool = False
    mirrored_rows: bool = False
    """Top and bottom change places."""
    mirrored_columns: bool = False

    def upright(self, stored: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A stored frame (H, W, 3) as it is to be shown; a view."""
        shown = stored.transpose(1, 0, 2) if self.transposed else stored
        return shown[:: -1 if self.mirrored_rows else 1, :: -1 if self.mirrored_columns else 1]


def orientation_of(frame: VideoFrame) -> Orientation:
    """What the frame's display matrix asks for.

    The matrix is ((a, b, u), (c, d, v), (x, y, w)) and moves the point (p, q) to (a p + c q + x, b p + d q + y)
    (ISO/IEC 14496-12, 6.2.2), p to the right and q downwards.

    Raises:
        VideoError: by another angle than a quarter turn.
    """
    from av.sidedata.sidedata import Type

    try:
        side_data = cast("Mapping[Type, memoryview]", frame.side_data)  # PyAV's own description of it is another
        matrix = np.frombuffer(side_data[Type.DISPLAYMATRIX], np.int32)
    except KeyError:
        return Orientation()
    a, b, c, d = (int(value) for value in matrix[[0, 1, 3, 4]])
    straight, crossed = max(abs(a), abs(d)), max(abs(b), abs(c))
    if crossed <= _LARGEST_SKEW * straight:
        return Orientation(False, mirrored_rows=d < 0, mirrored_columns=a < 0)
    if straight <= _LARGEST_SKEW * crossed:
        return Orientation(True, mirrored_rows=b < 0, mirrored_columns=c < 0)
    raise VideoError("unsupported", f"the frame is turned by {frame.rotation} degrees")


class FrameConverter:
    """Converts the frames of one video to RGB; what is set up for one is kept for the next."""

    def __init__(self, hdr: HdrRule, height: int | None = None, width: int | None = None) -> None:
        """``height`` and ``width`` are those of the result, the frame's own where they are None."""
        from av.video.reformatter import VideoReformatter

        self._hdr = hdr
        self._height, self._width = height, width
        self._reformatter = VideoReformatter()
        self._as_progressive: Graph | None = None
        self._orientation: Orientation | None = None

    def rgb(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        """A frame as (H, W, 3) RGB.

        Raises:
            VideoError: its colours cannot be converted or may not be, or it is not turned like the first one.
        """
        orientation = orientation_of(frame)
        self._orientation = self._orientation or orientation
        if orientation != self._orientation:
            raise VideoError("unsupported", "the frame is turned in the middle of the video")
        transfer = self._transfer(frame)
        # The scaler would scale the even and the odd lines of a frame that is flagged as interlaced separately.
        whole = self._progressive(frame) if frame.interlaced_frame else frame
        if transfer is None:
            return orientation.upright(self._rgb(whole, orientation, "rgb24").astype(np.uint8, copy=False))
        deep = self._rgb(whole, orientation, "rgb48le").astype(np.uint16, copy=False)
        return orientation.upright(tone_mapped(deep, transfer))

    def _transfer(self, frame: VideoFrame) -> Transfer | None:
        transfer = _HDR_TRANSFERS.get(frame.color_trc)
        if transfer is not None and self._hdr == "exclude":
            raise VideoError(
                "hdr", f"its colours are {_HDR_NAMES[transfer]}; data.hdr: tonemap (--hdr tonemap) converts them to SDR"
            )
        return transfer

    def _progressive(self, frame: VideoFrame) -> VideoFrame:
        self._as_progressive = self._as_progressive or filter_graph(frame, "setfield", mode="prog")
        self._as_progressive.push(frame)
        return self._as_progressive.vpull()

    def _rgb(self, frame: VideoFrame, orientation: Orientation, format: str) -> npt.NDArray[Any]:
        from av.video.reformatter import Interpolation

        # Without processor-dependent short cuts every machine gets the same pixels; with the default ones all colours
        # are about one level too dark.
        exact = Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
        height, width = self._height, self._width
        if orientation.transposed:
            height, width = width, height
        filter_ = Interpolation.BICUBIC | exact
        try:
            made = self._reformatter.reformat(frame, width, height, format, interpolation=filter_, threads=1)
        except (OSError, ValueError, NotImplementedError) as error:
            matrix = _UNKNOWN_MATRICES.get(frame.colorspace)
            why = f"their matrix is {matrix}" if matrix else str(error)
            raise VideoError("unsupported", f"its colours cannot be converted to RGB: {why}") from error
        return made.to_ndarray()
