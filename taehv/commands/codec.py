"""``taehv reconstruct``, ``encode`` and ``decode``: videos of any length, a few frames at a time.

A video is extended by copies of its last frame until the decoder gives at least as many frames as went in, and by
copies of its last row and column until the variant can code its size; what comes out is cut to the video's own length
and size. Sound is not kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from taehv.config.params import DEFAULT_LIMITS, NO_CONVERSIONS, Conversions, VideoLimits
from taehv.data.latent_files import LatentFile, LatentFileError, LatentInfo, open_latents, write_latents
from taehv.data.video_files import (
    GAP,
    VideoFile,
    VideoFileError,
    check_rate,
    open_video,
    rgb_frames,
    side_by_side,
    write_video,
)
from taehv.losses.metrics import SSIM_WINDOW, psnr_per_clip, ssim_per_clip
from taehv.model.fused_inference import FoldedTAEHV
from taehv.model.padding import pad_to_multiple, to_float
from taehv.model.streaming import StreamingDecoder, StreamingEncoder
from taehv.model.variants import Variant

LATENTS_AT_A_TIME = 2
"""The memory for activations grows with it, the speed hardly."""
DEFAULT_RATE = Fraction(24)
"""Frames per second of latents that do not say it."""


@dataclass(frozen=True)
class Quality:
    """How close a reconstruction is: means over all frames."""

    frames: int
    psnr_db: float
    ssim: float | None
    """None where the frame is smaller than SSIM's window."""


def reconstruct(
    model: FoldedTAEHV,
    source: Path,
    target: Path,
    beside_original: bool,
    limits: VideoLimits,
    conversions: Conversions = NO_CONVERSIONS,
) -> Quality:
    """Encode and decode a video, and compare.

    Raises:
        UserError: a file cannot be read or written.
    """
    video, variant = _open_source(source, target, limits, conversions), model.variant
    height, width = video.info.height, video.info.width
    promised = variant.latent_frames(variant.frames_to_code(video.info.frames))
    decoder = StreamingDecoder(model, promised if variant.trim_needs_clip_length else None)
    waiting: list[Tensor] = []
    meter = _QualityMeter(with_ssim=min(height, width) >= SSIM_WINDOW)
    with (
        write_video(target, video.timing, height, 2 * width + GAP if beside_original else width) as writer,
        tqdm(total=video.info.frames, unit="frame", desc="reconstruct") as progress,
    ):
        for decoded in _decoded(decoder, _encoded(model, video, waiting.append)):
            originals = torch.cat(waiting)
            count = min(len(decoded), len(originals))
            waiting[:] = [originals[count:]]
            if count:
                shown, original = decoded[:count, :, :height, :width].float().cpu(), to_float(originals[:count])
                meter.add(shown, original)
                writer.write(rgb_frames(side_by_side(original, shown) if beside_original else shown))
                progress.update(count)
    return meter.result()


def encode(
    model: FoldedTAEHV,
    source: Path,
    target: Path,
    limits: VideoLimits,
    conversions: Conversions = NO_CONVERSIONS,
) -> LatentInfo:
    """Encode a video into a file of latents.

    Raises:
        UserError: a file cannot be read or written.
    """
    video = _open_source(source, target, limits, conversions)
    check_rate(video.rate, source)
    with (
        write_latents(target) as writer,
        tqdm(total=video.info.frames, unit="frame", desc="encode") as progress,
    ):
        for latents in _encoded(model, video, lambda batch: progress.update(len(batch))):
            writer.write(latents[0])
        frames = int(progress.n)
        info = LatentInfo(model.variant.name, frames, video.info.height, video.info.width, str(video.rate))
        writer.finish(info, video.times.first(frames) if video.times else None)
    return info


def decode(
    model: FoldedTAEHV, source: Path, target: Path, rate: Fraction | None, limits: VideoLimits = DEFAULT_LIMITS
) -> int:
    """Decode a file of latents into a video; returns its number of frames.

    Raises:
        UserError: a file cannot be read or written, or the latents are another variant's or make larger frames than
            the limits allow.
    """
    latents = open_latents(source)
    info = _info_for(model.variant, latents, rate)
    pixels = math.prod(latents.shape[2:]) * model.variant.spatial_upscale**2
    if pixels > limits.pixels:
        raise LatentFileError(
            f"{source} makes frames of {pixels:,} pixels, {limits.pixels:,} are allowed; --max-pixels raises the "
            "limit, at the price of memory"
        )
    weight = next(model.parameters())
    pieces = (batch[None].to(weight) for batch in latents.batches(LATENTS_AT_A_TIME))
    left = info.frames
    timing = latents.times if rate is None and latents.times is not None else info.frames_per_second
    with (
        write_video(target, timing, info.height, info.width) as writer,
        tqdm(total=info.frames, unit="frame", desc="decode") as progress,
    ):
        for decoded in _decoded(StreamingDecoder(model, latents.shape[0]), pieces):
            shown = decoded[:left, :, : info.height, : info.width]
            writer.write(rgb_frames(shown))
            left -= len(shown)
            progress.update(len(shown))
    return info.frames


class _QualityMeter:
    def __init__(self, with_ssim: bool) -> None:
        self._with_ssim = with_ssim
        self._frames = 0
        self._psnr = self._ssim = 0.0

    def add(self, decoded: Tensor, original: Tensor) -> None:
        """Frames (t, 3, H, W) of both."""
        self._frames += len(decoded)
        self._psnr += len(decoded) * float(psnr_per_clip(decoded[None], original[None]))
        if self._with_ssim:
            self._ssim += len(decoded) * float(ssim_per_clip(decoded[None], original[None]))

    def result(self) -> Quality:
        ssim = self._ssim / self._frames if self._with_ssim else None
        return Quality(self._frames, self._psnr / self._frames, ssim)


def _open_source(source: Path, target: Path, limits: VideoLimits, conversions: Conversions) -> VideoFile:
    video = open_video(source, limits, conversions)
    if target.exists() and target.samefile(source):
        raise VideoFileError(f"{target} is the input; choose another output")
    return video


def _encoded(model: FoldedTAEHV, video: VideoFile, keep: Callable[[Tensor], object]) -> Iterator[Tensor]:
    """A video's latents (1, t, C, h, w); ``keep`` sees each batch of frames (t, 3, H, W) uint8 before it is encoded."""
    variant, weight = model.variant, next(model.parameters())
    encoder = StreamingEncoder(model)
    frames, seen = weight.new_empty(0), 0
    for batch in video.batches(LATENTS_AT_A_TIME * variant.t_downscale):
        keep(batch)
        frames = pad_to_multiple(to_float(batch.to(weight.device)), variant.spatial_downscale).to(weight.dtype)
        yield encoder.push(frames[None])
        seen += len(batch)
    if seen < video.info.frames and variant.trim_needs_clip_length:
        raise VideoFileError(
            f"{video.path} has {seen} frames, not {video.info.frames} as its packets say; {variant.name} must know "
            "before it decodes. Copy the video with a tool that writes it anew"
        )
    missing = variant.frames_to_code(seen) - seen
    if missing:
        yield encoder.push(frames[-1:].expand(missing, -1, -1, -1)[None])
    yield encoder.flush()


def _decoded(decoder: StreamingDecoder, latents: Iterable[Tensor]) -> Iterator[Tensor]:
    """Frames (t, 3, H, W) of latents (1, t, C, h, w)."""
    for piece in latents:
        if piece.shape[1]:
            yield decoder.push(piece)[0]
    yield decoder.flush()[0]


def _info_for(variant: Variant, latents: LatentFile, rate: Fraction | None) -> LatentInfo:
    """What to make of the latents; for files without metadata, all that is in them."""
    count, channels, rows, columns = latents.shape
    frames, height, width = (
        variant.decoded_frames(count),
        rows * variant.spatial_upscale,
        columns * variant.spatial_upscale,
    )
    info = latents.info or LatentInfo(variant.name, frames, height, width, str(DEFAULT_RATE))
    if info.variant != variant.name:
        raise LatentFileError(f"{latents.path} holds latents of {info.variant}, but the model is {variant.name}")
    if channels != variant.latent_channels:
        raise LatentFileError(
            f"{latents.path} holds latents of {channels} channels; {variant.name} has {variant.latent_channels}"
        )
    if not (0 < info.frames <= frames and 0 < info.height <= height and 0 < info.width <= width):
        raise LatentFileError(
            f"{latents.path} promises {info.frames} frames of {info.height}x{info.width}, but its latents make "
            f"{frames} of {height}x{width}"
        )
    if latents.times is not None and latents.times.frames != info.frames:
        raise LatentFileError(f"{latents.path} has times of {latents.times.frames} frames, and {info.frames} frames")
    return LatentInfo(info.variant, info.frames, info.height, info.width, str(rate) if rate else info.rate)
