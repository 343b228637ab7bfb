"""Clips as bytes and back, each as small and as true to the pixels as its codec says.

    raw            .npy                                        the pixels
    lossless       .mp4, H.264 in RGB                          the same pixels in fewer bytes
    near-lossless  .mp4, H.264 in 4:4:4, 10 bits per sample    almost the same pixels in far fewer bytes

The bytes are ordinary files: FFmpeg, and what is built on it, shows them in the right colours. They depend on the
pixels and on the version of PyAV (the encoder is inside its wheel) alone: one thread, no look-ahead, no algorithm
chosen by the processor, and nothing in the file that names a version or a time. What each costs: docs/data.md.
"""

from __future__ import annotations

import io
import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from taehv.config.params import ClipCodecName
from taehv.data.splits import SplitName

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

Clip = npt.NDArray[np.uint8]
"""(T, 3, H, W) RGB in 0..255."""
Bytes = bytes | npt.NDArray[np.uint8]
Shape = tuple[int, int, int, int]
Part = tuple[slice, slice, slice]
"""Frames, rows and columns of a clip: at least one frame, all steps positive."""

WHOLE: Part = (slice(None), slice(None), slice(None))

_RATE = Fraction(24)
"""Frames per second, by which a player shows the clip; nothing here reads it."""
EQUAL_DB = 100.0
"""More than any clip has in which a single value differs by one."""
_PADDING = 128
"""Pixels by which a decoder's output may be larger than the frame, along each side."""


class ClipDecodeError(Exception):
    """Bytes that are not the clip that they should be. The message says what is wrong; whose bytes they are, and how to
    get them back, only the store knows."""


class ClipCodec(Protocol):
    """Turns clips into bytes and back. Without state: any thread or process may use it."""

    @property
    def suffix(self) -> str:
        """Of a file with these bytes."""
        ...

    @property
    def exact(self) -> bool:
        """Whether decoding gives the very pixels that were encoded."""
        ...

    def encode(self, clip: Clip, quality: int) -> bytes:
        """The bytes of a clip; the same for the same pixels and quality. Exact codecs know one quality only."""
        ...

    def decode(self, data: Bytes, shape: Shape, part: Part = WHOLE) -> Clip:
        """A part of a clip, a new array or a view of ``data``.

        Args:
            data: what ``encode`` gave.
            shape: of the whole clip.
            part: what is wanted of it.

        Raises:
            ClipDecodeError: the bytes are damaged, or are another clip's, so that it shows. Where it does not show, the
                pixels are wrong: compare their checksum.
        """
        ...


@dataclass(frozen=True)
class RawCodec:
    """The pixels as a ``.npy`` file."""

    suffix: str = ".npy"
    exact: bool = True

    def encode(self, clip: Clip, quality: int) -> bytes:
        """Header and pixels."""
        frames, _, height, width = clip.shape
        return self.header((frames, 3, height, width)) + np.ascontiguousarray(clip).tobytes()

    def decode(self, data: Bytes, shape: Shape, part: Part = WHOLE) -> Clip:
        """A view. The header must be exactly the one that this clip has, so that no damaged one is ever parsed."""
        header = self.header(shape)
        whole = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
        pixels = whole[len(header) :]
        if whole[: len(header)].tobytes() != header or len(pixels) != math.prod(shape):
            raise ClipDecodeError(f"it is not the .npy file of a clip of {'x'.join(map(str, shape))}")
        frames, rows, columns = part
        return pixels.reshape(shape)[frames, :, rows, columns]

    @staticmethod
    @lru_cache(maxsize=16)
    def header(shape: Shape) -> bytes:
        """What stands before the pixels."""
        file = io.BytesIO()
        facts = {"descr": npy.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(file, facts)
        return file.getvalue()


@dataclass(frozen=True)
class VideoCodec:
    """A video file of one clip, whose first frame is its key frame."""

    encoder: str
    """FFmpeg's name, as the others here."""
    standard: str
    """Of what it makes: h264, hevc, ffv1, ..."""
    pixels: str
    """Pixel format that the encoder is given."""
    options: Mapping[str, str]
    """Of the encoder."""
    quality_option: str | None = None
    """The option that takes ``quality``; None where there is only one."""
    exact: bool = False
    container: str = "mp4"
    suffix: str = ".mp4"

    def encode(self, clip: Clip, quality: int) -> bytes:
        """The file, made on the calling thread."""
        import av  # whoever trains on raw clips needs no video library

        options = dict(self.options) | ({self.quality_option: str(quality)} if self.quality_option else {})
        file = io.BytesIO()
        with av.open(file, "w", format=self.container, options={"fflags": "+bitexact"}) as container:
            stream = self._new_stream(container, clip.shape[-2], clip.shape[-1], options)
            for packet in self._packets(stream, clip):
                container.mux(packet)
        return file.getvalue()

    def decode(self, data: Bytes, shape: Shape, part: Part = WHOLE) -> Clip:
        """A new array, made on the calling thread. What comes after the last wanted frame is not decoded."""
        frames, rows, columns = part
        wanted = range(shape[0])[frames]
        clip: Clip = np.empty((len(wanted), 3, len(range(shape[2])[rows]), len(range(shape[3])[columns])), np.uint8)
        to_rgb = _RgbPlanes()
        with closing(self._frames(data, shape)) as decoded:
            for number, frame in enumerate(decoded):
                if number in wanted:
                    clip[wanted.index(number)] = to_rgb(frame)[:, rows, columns]
                if number == wanted[-1] < shape[0] - 1:
                    break  # the clip's last frame is also asked whether another follows
        return clip

    def _new_stream(self, container: OutputContainer, height: int, width: int, options: dict[str, str]) -> VideoStream:
        from av.codec.context import Flags

        stream = cast("VideoStream", container.add_stream(self.encoder, rate=_RATE, options=options))
        stream.height, stream.width, stream.pix_fmt = height, width, self.pixels
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= Flags.bitexact.value
        if self.pixels.startswith("yuv"):
            _tag_as_full_range_bt709(stream.codec_context)
        return stream

    def _packets(self, stream: VideoStream, clip: Clip) -> Iterator[Packet[VideoStream]]:
        from av.bitstream import BitStreamFilterContext
        from av.video.frame import VideoFrame
        from av.video.reformatter import VideoReformatter

        # x264 writes its version and settings into the first packet: NAL units of type 6.
        cleaner = BitStreamFilterContext("filter_units=remove_types=6", stream) if self.standard == "h264" else None
        reformatter = VideoReformatter()
        frames: list[VideoFrame | None] = []
        for number, frame_hwc in enumerate(np.ascontiguousarray(clip.transpose(0, 2, 3, 1))):
            frame = self._as_encoded(VideoFrame.from_ndarray(frame_hwc, format="rgb24"), reformatter)
            frame.pts, frame.time_base = number, 1 / _RATE
            frames.append(frame)
        for end_or_frame in [*frames, None]:
            for packet in stream.encode(end_or_frame):
                yield from cleaner.filter(packet) if cleaner is not None else [packet]

    def _as_encoded(self, frame: VideoFrame, reformatter: VideoReformatter) -> VideoFrame:
        from av.video.reformatter import ColorRange, Colorspace

        if self.pixels == "rgb24":
            return frame
        colours: dict[str, Any] = {}
        if self.pixels.startswith("yuv"):
            colours = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.JPEG}
        return reformatter.reformat(frame, format=self.pixels, interpolation=_exact(), threads=1, **colours)

    def _frames(self, data: Bytes, shape: Shape) -> Generator[VideoFrame, None, None]:
        """All frames of the clip, checked.

        Raises:
            ClipDecodeError: as ``decode``.
        """
        import av

        frames, _, height, width = shape
        # Damaged bytes may ask for any size. A decoder that goes on after an error would show another frame.
        limits = {"max_pixels": str((height + _PADDING) * (width + _PADDING)), "err_detect": "explode"}
        number = 0
        try:
            with av.open(
                io.BytesIO(bytes(data)), "r", format=self.container, options=limits | {"max_streams": "1"}
            ) as container:
                stream = container.streams.video[0]
                if stream.codec_context is None or stream.codec_context.codec.canonical_name != self.standard:
                    raise ClipDecodeError(f"it is not a video in {self.standard}")
                stream.codec_context.thread_type = "NONE"
                stream.codec_context.thread_count = 1
                stream.codec_context.options = limits
                for frame in container.decode(stream):
                    if (frame.height, frame.width) != (height, width) or frame.is_corrupt:
                        raise ClipDecodeError(f"its frame {number} is damaged or not {height}x{width}")
                    number += 1
                    yield frame
        except (av.error.FFmpegError, ArithmeticError, LookupError, ValueError, MemoryError) as error:
            raise ClipDecodeError(f"its frame {number} does not decode: {error}") from error
        if number != frames:
            raise ClipDecodeError(f"it has {number} frames, not {frames}")


class _RgbPlanes:
    """Converts frames; what is set up for one is kept for the next."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        """(3, H, W) RGB."""
        planar = self._reformatter.reformat(frame, format="gbrp", interpolation=_exact(), threads=1)
        green, blue, red = (
            np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
            for plane in planar.planes
        )
        return np.stack([red, green, blue])


def psnr_db(clip: Clip, decoded: Clip) -> float:
    """Peak signal-to-noise ratio of all pixels and colours, in dB; infinite where they are equal."""
    difference = clip.astype(np.int32) - decoded
    squared = int(np.vdot(difference, difference)) / difference.size
    return 10 * math.log10(255**2 / squared) if squared else math.inf


@dataclass(frozen=True)
class Fidelity:
    """How near the pixels that are read back are to those that were encoded, over the clips where they differ."""

    clips: int = 0
    sum_db: float = 0.0
    worst_db: float = math.inf

    @classmethod
    def of(cls, psnrs: Iterable[float | None]) -> Fidelity:
        """``psnrs``: ``psnr_db`` of each clip, None where the codec is exact. Clips that came out equal count for
        ``EQUAL_DB``: an infinite mean would say nothing of the others."""
        known = [min(psnr, EQUAL_DB) for psnr in psnrs if psnr is not None]
        return cls(len(known), sum(known), min(known, default=math.inf))

    def __add__(self, other: Fidelity) -> Fidelity:
        worst = min(self.worst_db, other.worst_db)
        return Fidelity(self.clips + other.clips, self.sum_db + other.sum_db, worst)

    def facts(self) -> dict[str, float] | None:
        """Mean and worst PSNR, in dB; None where all clips are exact."""
        if not self.clips:
            return None
        return {"mean": round(self.sum_db / self.clips, 3), "worst": round(self.worst_db, 3)}


def _exact() -> int:
    """Scaler flags by which every machine gets the same pixels, and colours are converted at full resolution."""
    from av.video.reformatter import Interpolation

    return (
        Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
    ).value


def _tag_as_full_range_bt709(context: VideoCodecContext) -> None:
    """By the code points of ITU-T H.273, 1 being BT.709; the range is FFmpeg's number."""
    context.color_primaries = context.color_trc = context.colorspace = 1
    context.color_range = 2


# By measurement (benchmarks/clip_codecs.py): the fastest to decode of those that are small enough. ``cpu-independent``:
# otherwise x264 may choose another algorithm on another processor. One key frame; ``psy`` gives up PSNR for looks.
_X264 = {
    "preset": "ultrafast",
    "bf": "0",
    "x264-params": "keyint=infinite:subme=2:8x8dct=1:psy=0:cpu-independent=1:rc-lookahead=0:sync-lookahead=0",
}
RAW = RawCodec()
CODECS: Mapping[str, ClipCodec] = {
    "raw": RAW,
    "lossless": VideoCodec("libx264rgb", "h264", "rgb24", _X264 | {"qp": "0"}, exact=True),
    "near-lossless": VideoCodec("libx264", "h264", "yuv444p10le", _X264, quality_option="qp"),
}


def codec_of_split(split: SplitName, wanted: ClipCodecName) -> ClipCodecName:
    """How clips of a split are stored: what is measured is measured on exact pixels, so those held out are never
    near-lossless."""
    return wanted if split == "train" or CODECS[wanted].exact else "lossless"
