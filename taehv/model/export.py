"""Encoder and decoder as graphs that run without this package: ``torch.export`` and ONNX, with any N, T, H and W.

The encoder's graph takes frames whose T, H and W the variant's downscales divide. Where a variant's rule about time
is the same for every clip, the graphs do what ``encode`` and ``decode`` do. Where not (CogVideoX's trim, MiniMax H3's
pieces), they hold the layers alone: ``graph_follows_clip_rule`` says which, and the caller applies the variant's rule.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from taehv.model.taehv import TAEHV
from taehv.model.variants import Variant

# No size of an example may be 1 or equal another: export takes such sizes for fixed.
_CLIPS, _LATENTS, _ROWS, _COLUMNS = 2, 5, 3, 4


class EncoderGraph(nn.Module):
    """Frames (N, T, 3, H, W) in [0, 1] to latents."""

    def __init__(self, model: TAEHV) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> Tensor:
        if graph_follows_clip_rule(self.model.variant):
            return self.model.encode(frames)
        return self.model.run_encoder(frames, frames.shape[0])


class DecoderGraph(nn.Module):
    """Latents (N, T, C, h, w) to frames, not clamped."""

    def __init__(self, model: TAEHV) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor) -> Tensor:
        if graph_follows_clip_rule(self.model.variant):
            return self.model.decode(latents)
        return self.model.run_decoder(latents, latents.shape[0])


def graph_follows_clip_rule(variant: Variant) -> bool:
    """Whether exported graphs pad, cut and trim; otherwise they hold the layers alone."""
    return variant.segments is None and not variant.trim_needs_clip_length


def export_programs(model: TAEHV) -> dict[str, ExportedProgram]:
    """``encoder`` and ``decoder`` as ``torch.export`` programs; they can be saved with ``torch.export.save``.

    They check their input against what the export assumed: at least three latents, or frames for as many. The ONNX
    files do not.
    """
    variant = model.variant
    size, frames = variant.spatial_downscale, _LATENTS * variant.t_downscale
    examples: dict[str, tuple[nn.Module, Tensor]] = {
        "encoder": (EncoderGraph(model), torch.rand(_CLIPS, frames, 3, _ROWS * size, _COLUMNS * size)),
        "decoder": (DecoderGraph(model), torch.rand(_CLIPS, _LATENTS, variant.latent_channels, _ROWS, _COLUMNS)),
    }
    any_size = dict.fromkeys((0, 1, 3, 4), Dim.AUTO)
    with torch.no_grad():
        return {
            name: torch.export.export(graph.eval(), (example,), dynamic_shapes=(any_size,))
            for name, (graph, example) in examples.items()
        }


def export_onnx(model: TAEHV, folder: Path) -> dict[str, Path]:
    """Write ``encoder.onnx`` and ``decoder.onnx``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, program in export_programs(model).items():
        onnx_program = torch.onnx.export(program, dynamo=True, verbose=False)
        assert onnx_program is not None
        written[name] = folder / f"{name}.onnx"
        onnx_program.save(written[name], external_data=False)
    return written
