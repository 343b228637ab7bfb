"""``taehv reconstruct``, ``encode`` and ``decode``: their options; ``codec.py`` does it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from taehv.config.params import DEFAULT_LIMITS, NO_CONVERSIONS, Conversions, HdrRule, InterlacedRule, VideoLimits
from taehv.runtime import paths
from taehv.runtime.errors import UserError

if TYPE_CHECKING:
    from taehv.model.fused_inference import FoldedTAEHV

VideoIn = Annotated[Path, typer.Argument(parser=Path, metavar="IN.mp4", help="The video.")]
VideoOut = Annotated[Path, typer.Argument(parser=Path, metavar="OUT.mp4", help="The video to write.")]
Latents = Annotated[Path, typer.Argument(parser=Path, metavar="LATENTS.safetensors", help="The latents.")]
MaxPixels = Annotated[int, typer.Option(metavar="N", help="Refuse larger frames than this, which is 8192 x 4320.")]
Hdr = Annotated[HdrRule, typer.Option(help="HDR videos (PQ, HLG): refuse them, or make SDR of them.")]
Interlaced = Annotated[
    InterlacedRule, typer.Option(help="Interlaced videos: refuse them, or make one progressive frame of each.")
]
Model = Annotated[
    Path,
    typer.Option(parser=Path, metavar="PATH", help="A trained model's folder, or a .pth or .safetensors checkpoint."),
]
VariantName = Annotated[
    str | None, typer.Option(metavar="NAME", help="Needed where a checkpoint's keys and shapes fit several variants.")
]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="What it computes in.")]

BEST_MODEL = paths.training_outputs("h100_train").best_model


def reconstruct(
    source: VideoIn,
    target: VideoOut,
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="The original on the left.")] = False,
    max_pixels: MaxPixels = DEFAULT_LIMITS.pixels,
    hdr: Hdr = NO_CONVERSIONS.hdr,
    interlaced: Interlaced = NO_CONVERSIONS.interlaced,
    model: Model = BEST_MODEL,
    variant: VariantName = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> int:
    """Encode and decode a video; prints PSNR and SSIM.

    \b
    taehv reconstruct IN.mp4 OUT.mp4 --side-by-side
    taehv reconstruct IN.mp4 OUT.mp4 --model taew2_1.pth --variant wan2_1
    """
    from taehv.commands import codec

    limits, conversions = _limits(max_pixels), Conversions(hdr=hdr, interlaced=interlaced)
    opened = _fast_model(model, variant, device, dtype)
    quality = codec.reconstruct(opened, source, target, side_by_side, limits, conversions)
    ssim = "SSIM not defined for so small a frame" if quality.ssim is None else f"SSIM {quality.ssim:.4f}"
    print(f"{target}: {quality.frames} frames, PSNR {quality.psnr_db:.2f} dB, {ssim}")
    return 0


def encode(
    source: VideoIn,
    target: Latents,
    max_pixels: MaxPixels = DEFAULT_LIMITS.pixels,
    hdr: Hdr = NO_CONVERSIONS.hdr,
    interlaced: Interlaced = NO_CONVERSIONS.interlaced,
    model: Model = BEST_MODEL,
    variant: VariantName = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> int:
    """Turn a video into latents.

    It may be of any length: the memory that is needed does not grow with it.

    \b
    taehv encode IN.mp4 LATENTS.safetensors
    taehv encode HDR.mov LATENTS.safetensors --hdr tonemap --dtype bfloat16
    """
    from taehv.commands import codec

    limits, conversions = _limits(max_pixels), Conversions(hdr=hdr, interlaced=interlaced)
    info = codec.encode(_fast_model(model, variant, device, dtype), source, target, limits, conversions)
    print(f"{target}: {info.variant} latents of {info.frames} frames of {info.width}x{info.height}")
    return 0


def decode(
    source: Latents,
    target: VideoOut,
    fps: Annotated[
        str | None,
        typer.Option(metavar="RATE", help="Frames per second; without it what the latents say, or 24."),
    ] = None,
    max_pixels: MaxPixels = DEFAULT_LIMITS.pixels,
    model: Model = BEST_MODEL,
    variant: VariantName = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> int:
    """Turn latents into a video.

    \b
    taehv decode LATENTS.safetensors OUT.mp4
    taehv decode LATENTS.safetensors OUT.mp4 --fps 30000/1001 --device cuda
    """
    from taehv.commands import codec
    from taehv.data.latent_files import parse_rate

    try:
        rate = None if fps is None else parse_rate(fps)
    except ValueError as error:
        raise UserError(f"--fps {error}") from error
    opened, limits = _fast_model(model, variant, device, dtype), _limits(max_pixels)
    print(f"{target}: {codec.decode(opened, source, target, rate, limits)} frames")
    return 0


def _limits(max_pixels: int) -> VideoLimits:
    if max_pixels < 1:
        raise UserError(f"--max-pixels must be positive, got {max_pixels}")
    return DEFAULT_LIMITS.model_copy(update={"pixels": max_pixels})


def _fast_model(path: Path, variant: str | None, device: str, dtype: str) -> FoldedTAEHV:
    from taehv.commands.choose_model import open_fast_model

    return open_fast_model(path, variant, device, dtype)
