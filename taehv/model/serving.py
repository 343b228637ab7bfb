"""A model as a function of arrays: videos of any length and size to latents, back, or through both.

Whole clips in, whole clips out; ``streaming.py`` is for videos that should not be in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taehv.model.checkpoints import load_model
from taehv.model.fused_inference import FoldedTAEHV
from taehv.model.padding import pad_to_multiple, repeat_last, to_float, to_uint8

Task = Literal["encode", "decode", "reconstruct"]
Pixels = Literal["same", "uint8", "float32"]

FRAMES_AT_A_TIME = 16
LATENTS_AT_A_TIME = 4
"""Bounds the memory for activations; the numbers do not change."""
TOLERANCE = 1e-3
"""How far resampled float pixels may lie outside [0, 1]."""


class InputError(ValueError):
    """What was given cannot be coded. The message says what is wrong and what is wanted."""


class VideoCoder:
    """One model folder (as training writes it), on the GPU where there is one."""

    def __init__(self, folder: Path) -> None:
        """Load it.

        Raises:
            WeightsError: the folder cannot be used.
        """
        model, _ = load_model(folder)
        self._model = FoldedTAEHV(model.to("cuda" if torch.cuda.is_available() else "cpu"))
        self._variant = model.variant

    def run(self, given: NDArray[Any], task: str = "reconstruct", pixels: str = "same") -> NDArray[Any]:
        """Do one task.

        Args:
            given: a video (N, T, 3, H, W), RGB, integers in 0..255 or floats in [0, 1]; for `decode` latents
                (N, T, latent channels, h, w).
            task: `encode`: video to latents, float32, (N, latent frames, latent channels, ceil(H / downscale),
                ceil(W / downscale)). The clip is extended by copies of its last frame, row and column until it can be
                coded, and until at least T frames are decoded.
                `decode`: latents to all frames that they hold, at the full size.
                `reconstruct`: both, cut to the video's own T, H and W. Frame j belongs to frame j.
            pixels: what video comes out: `uint8` in 0..255, `float32` in [0, 1], or the `same` as went in (`decode`:
                float32).

        Raises:
            InputError: an argument is not one of the above.
        """
        _check_choice("task", task, Task)
        _check_choice("pixels", pixels, Pixels)
        clip = np.asarray(given)
        if clip.dtype.kind not in "iuf":
            raise InputError(f"expected an array of numbers, got one of {clip.dtype}: are all clips of one size?")
        if task == "decode":
            frames = self._decode(self._latents(clip))
            return _as_pixels(frames, as_bytes=pixels == "uint8")
        video = self._video(clip)
        latents = self._encode(video)
        if task == "encode":
            result: NDArray[Any] = latents.cpu().numpy()
            return result
        length, height, width = clip.shape[1], clip.shape[3], clip.shape[4]
        frames = self._decode(latents)[:, :length, :, :height, :width]
        as_bytes = pixels == "uint8" or (pixels == "same" and clip.dtype.kind in "iu")
        return _as_pixels(frames, as_bytes=as_bytes)

    def _video(self, clip: NDArray[Any]) -> Tensor:
        """(N, T, 3, H, W) float32 in [0, 1]."""
        if clip.ndim != 5 or clip.shape[2] != 3 or 0 in clip.shape:
            raise InputError(f"expected a video (N, T, 3, H, W), got {clip.shape}")
        low, high = clip.min(), clip.max()
        if clip.dtype.kind in "iu":
            if low < 0 or high > 255:
                raise InputError(f"integers are pixels in 0..255, got {low}..{high}")
            return to_float(self._tensor(clip, np.uint8))
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
            raise InputError(f"floats are pixels in [0, 1], got {low:g}..{high:g}; 0..255 is given as integers")
        return self._tensor(clip).clamp(0, 1)

    def _latents(self, clip: NDArray[Any]) -> Tensor:
        channels = self._variant.latent_channels
        if clip.ndim != 5 or clip.shape[2] != channels or 0 in clip.shape:
            raise InputError(f"expected latents of {self._variant.name} (N, T, {channels}, h, w), got {clip.shape}")
        if not np.isfinite(clip).all():
            raise InputError("the latents are not all finite numbers")
        return self._tensor(clip)

    def _tensor(self, clip: NDArray[Any], dtype: type[np.uint8 | np.float32] = np.float32) -> Tensor:
        contiguous = np.ascontiguousarray(clip, dtype=dtype)
        return torch.from_numpy(contiguous).to(next(self._model.parameters()).device)

    def _encode(self, video: Tensor) -> Tensor:
        length = video.shape[1]
        video = pad_to_multiple(video, self._variant.spatial_downscale)
        video = repeat_last(video, self._variant.frames_to_code(length) - length)
        return self._model.encode(video, chunk=FRAMES_AT_A_TIME)

    def _decode(self, latents: Tensor) -> Tensor:
        return self._model.decode(latents, chunk=LATENTS_AT_A_TIME)


def _as_pixels(frames: Tensor, *, as_bytes: bool) -> NDArray[Any]:
    pixels = to_uint8(frames) if as_bytes else frames.clamp(0, 1)
    result: NDArray[Any] = pixels.cpu().numpy()
    return result


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise InputError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")
