"""Exported graphs give torch's numbers for sizes that the export never saw."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch

from taehv.model.export import DecoderGraph, EncoderGraph, export_onnx, export_programs, graph_follows_clip_rule
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS

SIZES = [(2, 2, 2, 3), (1, 1, 1, 1), (1, 3, 4, 2)]


def test_only_variants_with_one_rule_for_all_clips_have_it_in_the_graph() -> None:
    assert {name for name, variant in VARIANTS.items() if not graph_follows_clip_rule(variant)} == {
        "cogvideox",
        "minimax_h3",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["hunyuan_video", *(pytest.param(name, marks=pytest.mark.soak) for name in ("cogvideox", "wan2_2_super"))]
)
def test_onnx_of_any_size_gives_torchs_numbers(name: str, tmp_path: Path) -> None:
    model = create_model(VARIANTS[name], 1 / 16, "torch_default", seed=0).eval()
    variant, files = model.variant, export_onnx(model, tmp_path)
    graphs = {"encoder": EncoderGraph(model), "decoder": DecoderGraph(model)}
    for part, path in files.items():
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for clips, latents, rows, columns in SIZES:
            step = variant.spatial_downscale
            given = (
                torch.rand(clips, latents * variant.t_downscale, 3, rows * step, columns * step)
                if part == "encoder"
                else torch.randn(clips, latents, variant.latent_channels, rows, columns)
            )
            ours = session.run(None, {session.get_inputs()[0].name: given.numpy()})[0]
            with torch.inference_mode():
                wanted = graphs[part](given)
            torch.testing.assert_close(torch.from_numpy(ours), wanted, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_torch_export_program_of_three_latents_and_more_gives_the_models_numbers() -> None:
    model = create_model(VARIANTS["hunyuan_video"], 1 / 16, "torch_default", seed=0).eval()
    programs = export_programs(model)
    for clips, latents, rows, columns in [(2, 3, 2, 3), (3, 6, 4, 2)]:
        frames = torch.rand(clips, 4 * latents, 3, 8 * rows, 8 * columns)
        with torch.inference_mode():
            z = model.encode(frames)
            torch.testing.assert_close(programs["encoder"].module()(frames), z, rtol=0, atol=1e-5)
            torch.testing.assert_close(programs["decoder"].module()(z), model.decode(z), rtol=0, atol=1e-5)
