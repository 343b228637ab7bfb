"""Whole videos in and out of tensors, a few frames at a time, whatever their length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from taehv.config.params import DEFAULT_LIMITS, NO_CONVERSIONS, Conversions, VideoLimits
from taehv.data.decode import FewerFramesError, VideoInfo, probe, read_frames
from taehv.data.variable_rate import VariableRate, variable_rate
from taehv.data.video_error import VideoError
from taehv.runtime.errors import UserError
from taehv.runtime.user_files import regular_file

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


def pictures_of(frames: Tensor) -> npt.NDArray[np.uint8]:
    """Frames (t, 3, H, W), float, clamped here to [0, 1], as pictures (t, H, W, 3) for the writer."""
    return frames.float().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def side_by_side(left: Tensor, right: Tensor) -> Tensor:
    """Two videos (t, 3, H, W) with a gap between them: (t, 3, H, 2W + gap)."""
    return torch.cat([left, left.new_ones(*left.shape[:-1], GAP), right], dim=-1)
