"""Whole videos in and out of tensors, a few frames at a time, whatever their length."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import av.container
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from taehv import atomic
from taehv.data.decode import FewerFramesError, FrameTimes, VideoInfo, frame_times, probe, read_frames
from taehv.data.video_error import VideoError
from taehv.errors import UserError
from taehv.params import DEFAULT_LIMITS, NO_CONVERSIONS, Conversions, VideoLimits

GAP = 8
"""White columns between the two halves of a side-by-side video."""


class VideoFileError(UserError):
    """A video file that cannot be read or written."""


@dataclass(frozen=True)
class VideoFile:
    """A video that can be read."""

    path: Path
    info: VideoInfo
    rate: Fraction
    """Frames per second; the average where it varies."""
    limits: VideoLimits
    conversions: Conversions = NO_CONVERSIONS

    def times(self) -> FrameTimes | None:
        """When each frame is shown, from the first one on; None where the file has no times."""
        return frame_times(self.path, self.info, self.limits)

    def batches(self, size: int) -> Iterator[Tensor]:
        """All frames in order, ``size`` at a time: (t, 3, H, W) uint8.

        Raises:
            VideoFileError: a frame does not decode, or the file ends early.
        """
        pictures = self._pictures()
        while batch := list(islice(pictures, size)):
            yield torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)

    def _pictures(self) -> Iterator[npt.NDArray[np.uint8]]:
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
            return  # some packets carry no picture: these were all
        except VideoError as error:
            raise VideoFileError(f"{self.path}: {error}") from error


def open_video(
    path: Path, limits: VideoLimits = DEFAULT_LIMITS, conversions: Conversions = NO_CONVERSIONS
) -> VideoFile:
    """Look at a video's packets and a few of its pictures.

    Raises:
        VideoFileError: there is no such file, it is not a video, has no video stream, is larger than the limits, is cut
            off or damaged, or needs a conversion that is not wanted.
    """
    if not path.is_file():
        raise VideoFileError(f"there is no file {path}")
    try:
        info = probe(path, limits, conversions)
    except VideoError as error:
        advice = "; --max-pixels raises the limit, at the price of memory" if error.reason == "too large" else ""
        raise VideoFileError(f"{path}: {error}{advice}") from error
    if not info.rate:
        raise VideoFileError(f"{path} does not say how many frames it shows per second")
    return VideoFile(path, info, info.rate, limits, conversions)


class VideoWriter:
    """Takes frames (t, 3, H, W), float in [0, 1], clamped here."""

    def __init__(self, container: av.container.OutputContainer, rate: Fraction, height: int, width: int) -> None:
        self._container = container
        self._stream = container.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "medium"})
        self._stream.height, self._stream.width = height, width
        # Halved colour needs even sizes; the picture's size is kept whatever it is.
        self._stream.pix_fmt = "yuv420p" if height % 2 == 0 and width % 2 == 0 else "yuv444p"

    def write(self, frames: Tensor) -> None:
        """The next frames."""
        pictures = frames.float().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        for picture in np.ascontiguousarray(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            self._container.mux(self._stream.encode(frame.reformat(format=self._stream.pix_fmt)))

    def finish(self) -> None:
        """What the encoder still holds."""
        self._container.mux(self._stream.encode(None))


@contextmanager
def write_video(path: Path, rate: Fraction, height: int, width: int) -> Iterator[VideoWriter]:
    """An H.264 video; the file appears at ``path`` only when it is complete.

    Raises:
        VideoFileError: the suffix names no container for H.264, or the file cannot be written.
    """
    if path.suffix.lower() not in (".mp4", ".mov", ".mkv"):
        raise VideoFileError(f"{path}: videos are written as .mp4, .mov or .mkv")
    try:
        with atomic.replacing(path) as partial, av.open(str(partial), "w") as container:
            writer = VideoWriter(container, rate, height, width)
            yield writer
            writer.finish()
    except (av.error.FFmpegError, OSError) as error:
        raise VideoFileError(f"{path} cannot be written: {error.strerror}") from error


def side_by_side(left: Tensor, right: Tensor) -> Tensor:
    """Two videos (t, 3, H, W) with a gap between them: (t, 3, H, 2W + gap)."""
    return torch.cat([left, left.new_ones(*left.shape[:-1], GAP), right], dim=-1)
