"""Model folders load strictly: the folder says what it is, and every key must fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from taehv.model.checkpoints import WeightsError, load_model
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = create_model(VARIANTS["cogvideox"], 1 / 16, "torch_default", seed=3)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "model_info.json").write_text(json.dumps({"variant": "cogvideox", "width": 1 / 16}))
    return tmp_path


def test_a_saved_model_comes_back_as_it_was(folder: Path) -> None:
    model, info = load_model(folder)
    original = create_model(VARIANTS["cogvideox"], 1 / 16, "torch_default", seed=3)
    assert info["variant"] == model.variant.name == "cogvideox"
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), original.parameters(), strict=True))


@pytest.mark.parametrize("name", ["model.safetensors", "model_info.json"])
@pytest.mark.parametrize("content", [None, b"", b"not what it should be"])
def test_a_missing_or_damaged_file_is_a_clear_error(folder: Path, name: str, content: bytes | None) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(WeightsError, match="no usable model"):
        load_model(folder)


def test_an_unknown_variant_is_not_guessed(folder: Path) -> None:
    (folder / "model_info.json").write_text(json.dumps({"variant": "taecvx.pth", "width": 1 / 16}))
    with pytest.raises(WeightsError, match=r"taecvx\.pth"):
        load_model(folder)


def test_a_missing_or_unexpected_key_is_named(folder: Path) -> None:
    weights = create_model(VARIANTS["cogvideox"], 1 / 16, "torch_default", seed=3).state_dict()
    weights["decoder.99.weight"] = weights.pop("decoder.22.weight")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"(?s)decoder\.22\.weight.*decoder\.99\.weight"):
        load_model(folder)


def test_another_width_is_refused(folder: Path) -> None:
    (folder / "model_info.json").write_text(json.dumps({"variant": "cogvideox", "width": 1 / 8}))
    with pytest.raises(WeightsError, match="does not fit cogvideox at width 0.125"):
        load_model(folder)
