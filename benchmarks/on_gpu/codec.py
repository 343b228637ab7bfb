"""Encode, decode, chunks and streams of 81 frames of 480x832, and the kernels that were compared on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.on_gpu.session import Session, relative_error
from taehv.model import folding
from taehv.model.folded import FoldedTAEHV
from taehv.model.formulations import RECIPES
from taehv.model.init import create_model
from taehv.model.streaming import StreamingDecoder
from taehv.model.taehv import TAEHV
from taehv.model.variants import VARIANTS

RECIPE = RECIPES["cuda"]
WAYS = {
    "as chosen": RECIPE,
    "unfused": replace(RECIPE, fused=False),
    "two convolutions": replace(RECIPE, memory="two convolutions"),
    "plain": None,
}


def run(session: Session) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        for way in WAYS if dtype == torch.float16 else ("as chosen",):
            session.case(f"codec {way}, {str(dtype).removeprefix('torch.')}", partial(codec, session, way, dtype))
    if session.rehearsal:
        return
    session.case("kernels entry", partial(entry_kernels, session))
    session.case("kernels exit", partial(exit_kernels, session))
    session.case("kernels memory", partial(memory_kernels, session))


def build(session: Session, way: str, dtype: torch.dtype) -> TAEHV | FoldedTAEHV:
    width = 1 / 8 if session.rehearsal else 1.0
    plain = create_model(VARIANTS["hunyuan_video"], width, "torch_default", seed=0).eval().to(session.device)
    recipe = WAYS[way]
    return plain.to(dtype) if recipe is None else FoldedTAEHV(plain, recipe).to(dtype)


def codec(session: Session, way: str, dtype: torch.dtype) -> dict[str, Any]:
    height, width, frames = (16, 24, 9) if session.rehearsal else (480, 832, 81)
    model = build(session, way, dtype)
    video = torch.rand(1, frames, 3, height, width, device=session.device, dtype=dtype)
    latents = torch.randn(1, -(-frames // 4), 16, height // 8, width // 8, device=session.device, dtype=dtype)
    calls: dict[str, Callable[[], object]] = {
        "decode": lambda: model.decode(latents),
        "encode": lambda: model.encode(video),
        "decode chunk 2": lambda: model.decode(latents, chunk=2),
        "decode chunk 1": lambda: model.decode(latents, chunk=1),
        "encode chunk 8": lambda: model.encode(video, chunk=8),
    }
    found: dict[str, Any] = {}
    with torch.inference_mode():
        for name, call in calls.items():
            if way in ("as chosen", "plain") or "chunk" not in name:
                found[f"{name} ms"] = session.milliseconds(call, times=5)
                found[f"{name} GB"] = session.peak_gb(call)
        stream = StreamingDecoder(model)
        one = latents[:, :1].contiguous()
        stream.push(one)
        found["stream ms per latent"] = session.milliseconds(lambda: stream.push(one), times=30)
    return found


def half(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.float16).to(memory_format=torch.channels_last)


def entry_kernels(session: Session) -> dict[str, Any]:
    """3 -> 64 channels and ReLU at full size, 40 frames: frame by frame, two side by side, filled up to 8 channels."""
    weight, bias = half(64, 3, 3, 3), torch.randn(64, device="cuda", dtype=torch.float16)
    pictures = half(40, 3, 480, 832)
    truth = functional.relu(functional.conv2d(pictures[:2].double(), weight.double(), bias.double(), padding=1))
    two, two_bias = folding.side_by_side(weight, 2).contiguous(memory_format=torch.channels_last), bias.repeat(2)
    joined = half(20, 6, 480, 832)
    joined[0] = pictures[:2].flatten(0, 1)
    eight = functional.pad(two, (0, 0, 0, 0, 0, 2)).contiguous(memory_format=torch.channels_last)
    filled = half(20, 8, 480, 832)
    filled[:, :6], filled[:, 6:] = joined, 0
    ways: dict[str, Callable[[], Tensor]] = {
        "3": lambda: functional.conv2d(pictures, weight, bias, padding=1).relu_(),
        "3 fused": lambda: torch.cudnn_convolution_relu(pictures, weight, bias, (1, 1), (1, 1), (1, 1), 1),
        "6": lambda: functional.conv2d(joined, two, two_bias, padding=1).relu_(),
        "6 fused": lambda: torch.cudnn_convolution_relu(joined, two, two_bias, (1, 1), (1, 1), (1, 1), 1),
        "8": lambda: functional.conv2d(filled, eight, two_bias, padding=1).relu_(),
        "8 fused": lambda: torch.cudnn_convolution_relu(filled, eight, two_bias, (1, 1), (1, 1), (1, 1), 1),
    }
    return compared(session, ways, lambda out: out[0].reshape(-1, 64, 480, 832)[:1], truth[:1])


def exit_kernels(session: Session) -> dict[str, Any]:
    """Grow, ReLU and 64 -> 3 channels at full size, from 20 half-size steps: where the ReLU goes, what lies where."""
    kernels, weight = torch.randn(2, 64, 64, 3, 3, device="cuda") / 24, torch.randn(3, 64, 3, 3, device="cuda") / 24
    bias = torch.randn(3, device="cuda")
    given = half(20, 64, 240, 416)
    grown = functional.conv2d(
        functional.interpolate(given[:1].double(), scale_factor=2), kernels.flatten(0, 1).double(), padding=1
    )
    truth = functional.conv2d(
        grown.relu().unflatten(1, (2, 64)).flatten(0, 1), weight.double(), bias.double(), padding=1
    )
    planes = as_half(folding.upsample_as_transposed(kernels).transpose(1, 2).flatten(1, 2))
    both, both_bias = as_half(folding.side_by_side(weight, 2)), bias.repeat(2).half()
    eight, eight_bias = (
        as_half(functional.pad(folding.side_by_side(weight, 2), (0, 0, 0, 0, 0, 0, 0, 2))),
        functional.pad(both_bias, (0, 2)),
    )
    single, single_bias = as_half(weight), bias.half()

    def grow() -> Tensor:
        return functional.conv_transpose2d(given, planes, stride=2, padding=1).relu_()

    hidden = grow()
    one_by_one = half(40, 64, 480, 832)
    ways: dict[str, Callable[[], Tensor]] = {
        "grow + relu + 6": lambda: functional.conv2d(grow(), both, both_bias, padding=1),
        "grow + relu + 8": lambda: functional.conv2d(grow(), eight, eight_bias, padding=1)[:, :6],
    }
    found = compared(session, ways, lambda out: out[0].unflatten(0, (2, 3)), truth)
    found["grow ms"] = session.milliseconds(lambda: functional.conv_transpose2d(given, planes, stride=2, padding=1))
    found["relu ms"] = session.milliseconds(lambda: hidden.relu_())
    found["exit 6 ms"] = session.milliseconds(lambda: functional.conv2d(hidden, both, both_bias, padding=1))
    found["exit 8 ms"] = session.milliseconds(lambda: functional.conv2d(hidden, eight, eight_bias, padding=1))
    found["exit 3, frame by frame ms"] = session.milliseconds(
        lambda: functional.conv2d(one_by_one, single, single_bias, padding=1)
    )
    # Phases: growing as a 2x2 convolution to the four phases, its ReLU in the epilogue, and the exit on the phases.
    phases = half(512, 64, 2, 2)
    on_phases = half(24, 512, 3, 3)
    none = torch.zeros(512, device="cuda", dtype=torch.float16)
    found["phases + relu ms"] = session.milliseconds(
        lambda: torch.cudnn_convolution_relu(given, phases, none, (1, 1), (1, 1), (1, 1), 1)
    )
    at_half = half(20, 512, 241, 417)
    found["exit on phases, 3x3 ms"] = session.milliseconds(lambda: functional.conv2d(at_half, on_phases, padding=1))
    return found


def memory_kernels(session: Session) -> dict[str, Any]:
    """A MemBlock's parts, 41 frames of 240x416: joining, plain and fused convolutions."""
    from taehv.model.folded import joined_with_past

    frames = half(41, 64, 240, 416)
    joined = joined_with_past(frames, 1, None)
    first, second = half(64, 128, 3, 3), half(64, 64, 3, 3)
    bias = torch.randn(64, device="cuda", dtype=torch.float16)
    how = ((1, 1), (1, 1), (1, 1), 1)
    return {
        "join ms": session.milliseconds(lambda: joined_with_past(frames, 1, None)),
        "cat ms": session.milliseconds(lambda: torch.cat([frames, frames], 1)),
        "conv 128 ms": session.milliseconds(lambda: functional.conv2d(joined, first, padding=1)),
        "conv 128 + bias + relu ms": session.milliseconds(
            lambda: functional.conv2d(joined, first, bias, padding=1).relu_()
        ),
        "conv 128 fused ms": session.milliseconds(lambda: torch.cudnn_convolution_relu(joined, first, bias, *how)),
        "conv 64 ms": session.milliseconds(lambda: functional.conv2d(frames, second, padding=1)),
        "conv 64 fused ms": session.milliseconds(lambda: torch.cudnn_convolution_relu(frames, second, bias, *how)),
        "conv 64 add fused ms": session.milliseconds(
            lambda: torch.cudnn_convolution_add_relu(frames, second, frames, 1.0, bias, *how)
        ),
    }


def as_half(weight: Tensor) -> Tensor:
    return weight.half().contiguous(memory_format=torch.channels_last)


def compared(
    session: Session, ways: dict[str, Callable[[], Tensor]], part: Callable[[Tensor], Tensor], truth: Tensor
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, way in ways.items():
        try:
            found[f"{name} error"] = relative_error(part(way()), truth)
            found[f"{name} ms"] = session.milliseconds(way)
        except RuntimeError as error:
            found[name] = str(error).splitlines()[0][:80]
    return found
