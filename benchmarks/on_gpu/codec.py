"""Encode, decode, chunks and streams of 81 frames of 480x832."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.on_gpu.session import Session
from taehv.model.formulations import RECIPES
from taehv.model.fused_inference import FoldedTAEHV
from taehv.model.init import create_model
from taehv.model.streaming import StreamingDecoder
from taehv.model.taehv import TAEHV
from taehv.model.variants import VARIANTS

RECIPE = RECIPES["cuda"]
WAYS = {
    "as chosen": RECIPE,
    "unfused": replace(RECIPE, fused=False),
    "plain": None,
}


def run(session: Session) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        for way in WAYS if dtype == torch.float16 else ("as chosen",):
            session.case(f"codec {way}, {str(dtype).removeprefix('torch.')}", partial(codec, session, way, dtype))


def build(session: Session, way: str, dtype: torch.dtype) -> TAEHV | FoldedTAEHV:
    width = 1 / 8 if session.rehearsal else 1.0
    plain = create_model(VARIANTS["hunyuan_video"], width, "torch_default", seed=0).eval().to(session.device)
    recipe = WAYS[way]
    return plain.to(dtype) if recipe is None else FoldedTAEHV(plain, recipe).to(dtype)


def codec(session: Session, way: str, dtype: torch.dtype) -> dict[str, Any]:
    height, width, frames = (16, 24, 9) if session.rehearsal else (480, 832, 81)
    model = build(session, way, dtype)
    latents = torch.randn(1, -(-frames // 4), 16, height // 8, width // 8, device=session.device, dtype=dtype)
    found: dict[str, Any] = {}

    def measure(name: str, call: Callable[[], object]) -> None:
        if way in ("as chosen", "plain") or "chunk" not in name:
            found[f"{name} ms"] = session.milliseconds(call, times=5)
            found[f"{name} GB"] = session.peak_gb(call)

    with torch.inference_mode():
        measure("decode", lambda: model.decode(latents))
        measure("decode chunk 2", lambda: model.decode(latents, chunk=2))
        measure("decode chunk 1", lambda: model.decode(latents, chunk=1))
        stream = StreamingDecoder(model)
        one = latents[:, :1].contiguous()
        stream.push(one)
        found["stream ms per latent"] = session.milliseconds(lambda: stream.push(one), times=30)
        video = torch.rand(1, frames, 3, height, width, device=session.device, dtype=dtype)
        measure("encode", lambda: model.encode(video))
        measure("encode chunk 8", lambda: model.encode(video, chunk=8))
    return found
