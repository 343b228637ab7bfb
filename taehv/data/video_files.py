"""Whole videos in and out of tensors, a few frames at a time, whatever their length.

The one writer is here: H.264 in BT.709, tagged as such, so that every player shows the colours that were written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from taehv.config.params import DEFAULT_LIMITS, NO_CONVERSIONS, Conversions, VideoLimits
from taehv.data.decode import FewerFramesError, VideoInfo, probe, read_frames
from taehv.data.variable_rate import VariableRate, rising, variable_rate
from taehv.data.video_error import VideoError
from taehv.model.padding import to_uint8
from taehv.runtime import atomic_files
from taehv.runtime.errors import UserError
from taehv.runtime.user_files import regular_file

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame


GAP = 8
"""White columns between the two halves of a side-by-side video."""


class VideoFileError(UserError):
    """A video file that cannot be read."""


@dataclass(frozen=True)
class VideoFile:
    """A video that can be read."""

    path: Path
    info: VideoInfo
    rate: Fraction
    """Frames per second; the average where it varies."""
    times: VariableRate | None
    """When each frame is shown, where the rate varies."""
    limits: VideoLimits
    conversions: Conversions = NO_CONVERSIONS

    @property
    def timing(self) -> Fraction | VariableRate:
        """What the writer needs to show the frames as this file does."""
        return self.rate if self.times is None else self.times

    def batches(self, size: int) -> Iterator[Tensor]:
        """All frames in order, ``size`` at a time: (t, 3, H, W) uint8.

        Raises:
            VideoFileError: a frame does not decode, or the file ends early.
        """
        frames = self._frames()
        while batch := list(islice(frames, size)):
            yield torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)

    def _frames(self) -> Iterator[npt.NDArray[np.uint8]]:
        info = self.info
        try:
            yield from read_frames(
                self.path,
                info,
                self.limits,
                self.conversions,
                stride=1,
                height=info.height,
                width=info.width,
                stop=info.frames,
            )
        except FewerFramesError:
            return  # some packets carry no frame: these were all
        except VideoError as error:
            raise VideoFileError(f"{self.path}: {error}") from error


def open_video(
    path: Path, limits: VideoLimits = DEFAULT_LIMITS, conversions: Conversions = NO_CONVERSIONS
) -> VideoFile:
    """Look at a video's packets and a few of its frames.

    Raises:
        VideoFileError: there is no such file, it is not a video, has no video stream, is larger than the limits, is cut
            off or damaged, or needs a conversion that is not wanted.
    """
    regular_file(path, VideoFileError)
    try:
        info = probe(path, limits, conversions)
        times = variable_rate(path, info, limits)
    except VideoError as error:
        advice = "; --max-pixels raises the limit, at the price of memory" if error.reason == "too large" else ""
        raise VideoFileError(f"{path}: {error}{advice}") from error
    if not info.rate:
        raise VideoFileError(f"{path} does not say how many frames it shows per second")
    return VideoFile(path, info, info.rate if times is None else times.mean, times, limits, conversions)


def rgb_frames(frames: Tensor) -> npt.NDArray[np.uint8]:
    """Frames (t, 3, H, W), float, clamped here to [0, 1], as (t, H, W, 3) uint8 for the writer."""
    return to_uint8(frames).permute(0, 2, 3, 1).cpu().numpy()


def side_by_side(left: Tensor, right: Tensor) -> Tensor:
    """Two videos (t, 3, H, W) with a gap between them: (t, 3, H, 2W + gap)."""
    return torch.cat([left, left.new_ones(*left.shape[:-1], GAP), right], dim=-1)


SUFFIXES = (".mp4", ".mov", ".mkv")
LOWEST_RATE, HIGHEST_RATE = Fraction(1, 10_000), Fraction(90_000)
"""Frames per second that mp4 can say; beyond them its 32-bit durations overflow."""
HIGHEST_MATROSKA_RATE = Fraction(1000)
"""Matroska counts milliseconds."""
_MOVIE_CLOCK = 90_000
_LONGEST_TICKS = 2**28
"""Ticks of one frame that mp4 takes for sure, whatever it multiplies them by."""
_COARSE_CLOCK = Fraction(1, 1000)
# One thread, no look-ahead, no B-frames: with them x264 does not always give the same file for the same frames.
_REPEATABLE = {"threads": "1", "bf": "0", "x264-params": "rc-lookahead=0:sync-lookahead=0:weightp=0"}


class VideoWriteError(UserError):
    """A video that cannot be written."""


class VideoWriter:
    """Takes RGB frames (t, H, W, 3), uint8."""

    def __init__(
        self, container: OutputContainer, timing: Fraction | VariableRate, height: int, width: int, *, repeatable: bool
    ) -> None:
        from av.codec.context import Flags

        self._times = _for_mp4(timing) if isinstance(timing, VariableRate) else None
        options = {"crf": "16", "preset": "medium", **(_REPEATABLE if repeatable else {})}
        if self._times is None:
            assert isinstance(timing, Fraction)
            # mp4 counts a frame in as many ticks as the denominator has.
            rate = timing if timing.denominator <= _LONGEST_TICKS else timing.limit_denominator(10**6)
            stream = container.add_stream("libx264", rate=rate, options=options)
            self._clock = 1 / rate
        else:
            # Without B-frames, the end that mp4 notes for the video is the end of its last frame.
            stream = container.add_stream("libx264", rate=self._times.mean, options=options | {"bf": "0"})
            stream.time_base = stream.codec_context.time_base = self._clock = self._times.clock
            stream.codec_context.flags |= Flags.frame_duration.value
        stream.height, stream.width = height, width
        # Halved colour needs even sizes; the frame's size is kept whatever it is.
        stream.pix_fmt = "yuv420p" if height % 2 == 0 and width % 2 == 0 else "yuv444p"
        _tag_as_bt709(stream.codec_context)
        self._container, self._stream, self._written = container, stream, 0

    def write(self, frames: npt.NDArray[np.uint8]) -> None:
        """The next frames."""
        for rgb in np.ascontiguousarray(frames):
            frame = _bt709(rgb, str(self._stream.pix_fmt))
            number, self._written = self._written, self._written + 1
            frame.time_base = self._clock
            frame.pts, frame.duration = number, 1
            if self._times is not None:
                start, end = self._times.ticks[number : number + 2]
                frame.pts, frame.duration = int(start), int(end - start)
            self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """What the encoder still holds."""
        self._container.mux(self._stream.encode(None))


@contextmanager
def write_video(
    path: Path, timing: Fraction | VariableRate, height: int, width: int, *, repeatable: bool = False
) -> Iterator[VideoWriter]:
    """An H.264 video; the file appears at ``path`` only when it is complete.

    Args:
        path: where; the suffix names the container.
        timing: frames per second, or the time of each frame.
        height: of the frames, in pixels.
        width: of the frames, in pixels.
        repeatable: the same frames give the same bytes, more slowly; and a page can play it while it loads.

    Raises:
        VideoWriteError: the suffix names no container for H.264, no container holds that rate, or the file cannot be
            written.
    """
    import av  # only reports and commands write videos

    if path.suffix.lower() not in SUFFIXES:
        raise VideoWriteError(f"{path}: videos are written as .mp4, .mov or .mkv")
    check_rate(timing if isinstance(timing, Fraction) else timing.mean, path)
    container_options = {"movflags": "faststart", "fflags": "+bitexact"} if repeatable else {}
    if path.suffix.lower() != ".mkv":
        # The length of a short video at a high rate must not round to nothing: by default mp4 counts milliseconds.
        container_options["movie_timescale"] = str(_MOVIE_CLOCK)
    try:
        with (
            atomic_files.replacing(path) as partial,
            # With the protocol in front a name with a colon is a name, and no address.
            av.open(f"file:{partial}", "w", options=container_options) as container,
        ):
            writer = VideoWriter(container, timing, height, width, repeatable=repeatable)
            yield writer
            writer.finish()
    except (av.error.FFmpegError, OSError) as error:
        raise VideoWriteError(f"{path} cannot be written: {error.strerror}") from error


def check_rate(rate: Fraction, path: Path) -> None:
    """Whether a video file, such as ``path``, can have that many frames per second.

    Raises:
        VideoWriteError: it cannot.
    """
    highest = HIGHEST_MATROSKA_RATE if path.suffix.lower() == ".mkv" else HIGHEST_RATE
    if not LOWEST_RATE <= rate <= highest:
        raise VideoWriteError(
            f"{path}: {float(rate):g} frames per second cannot be written, {LOWEST_RATE} to {highest} can"
        )


def _bt709(rgb: npt.NDArray[np.uint8], pixels: str) -> VideoFrame:
    from av.video.frame import VideoFrame
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

    exact = Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
    return VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
        format=pixels,
        interpolation=Interpolation.BICUBIC | exact,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        dst_color_primaries=ColorPrimaries.BT709,
        dst_color_trc=ColorTrc.BT709,
    )


def _tag_as_bt709(codec: VideoCodecContext) -> None:
    """The same values as code points (ITU-T H.273): 1 is BT.709 for all three, and 1 is FFmpeg's limited range."""
    codec.color_primaries = codec.color_trc = codec.colorspace = codec.color_range = 1


def _for_mp4(times: VariableRate) -> VariableRate:
    """The same times on a clock whose ticks mp4 can count."""
    longest = int(np.diff(times.ticks).max())
    if longest <= _LONGEST_TICKS and times.clock.denominator <= _LONGEST_TICKS:
        return times
    milliseconds = np.round(times.ticks * float(times.clock / _COARSE_CLOCK)).astype(np.int64)
    return VariableRate(_COARSE_CLOCK, rising(milliseconds))
