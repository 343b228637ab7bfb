"""Checkpoint files: strict, both formats, keys untouched, the variant found from what is inside."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.golden_values import DESCRIPTIONS
from torch import Tensor

from taehv.model.checkpoints import (
    WeightsError,
    find_variant,
    load_checkpoint,
    read_state_dict,
    write_state_dict,
)
from taehv.model.init import create_model
from taehv.model.taehv import TAEHV
from taehv.model.variants import VARIANTS, Variant

WIDTH = 1 / 16
SAME_SHAPES = ("hunyuan_video", "wan2_1", "cogvideox")


def narrow_weights(variant: Variant) -> dict[str, Tensor]:
    return create_model(variant, WIDTH, "torch_default", seed=3).state_dict()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_written_checkpoint_comes_back_with_the_published_keys(name: str, suffix: str, tmp_path: Path) -> None:
    weights = TAEHV(VARIANTS[name]).state_dict()
    write_state_dict(tmp_path / f"weights{suffix}", weights)
    back = read_state_dict(tmp_path / f"weights{suffix}")
    assert {key: list(value.shape) for key, value in back.items()} == DESCRIPTIONS[name]["state_dict"]
    assert all(torch.equal(back[key], weights[key]) for key in weights)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_variant_is_found_from_keys_and_shapes_where_only_one_fits(name: str) -> None:
    with torch.device("meta"):
        weights = TAEHV(VARIANTS[name]).state_dict()
    if name in SAME_SHAPES:
        with pytest.raises(WeightsError, match=r"(?s)several.*hunyuan_video, wan2_1, cogvideox"):
            find_variant(weights, "x")
    else:
        assert find_variant(weights, "x") is VARIANTS[name]


def test_a_file_name_says_nothing(tmp_path: Path) -> None:
    write_state_dict(tmp_path / "taecvx.pth", narrow_weights(VARIANTS["wan2_2"]))
    assert load_checkpoint(tmp_path / "taecvx.pth").variant.name == "wan2_2"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_chosen_variant_is_loaded_at_the_width_of_the_file(name: str, tmp_path: Path) -> None:
    weights = narrow_weights(VARIANTS[name])
    write_state_dict(tmp_path / "a.safetensors", weights)
    model = load_checkpoint(tmp_path / "a.safetensors", VARIANTS[name])
    assert model.variant.name == name and model.width == WIDTH
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_missing_unexpected_and_misshapen_keys_are_one_error_that_lists_them(tmp_path: Path) -> None:
    weights = narrow_weights(VARIANTS["wan2_2"])
    weights["decoder.99.weight"] = weights.pop("encoder.3.weight")
    weights["decoder.22.bias"] = torch.zeros(7)
    write_state_dict(tmp_path / "a.pth", weights)
    for variant in (VARIANTS["wan2_2"], None):
        with pytest.raises(WeightsError) as caught:
            load_checkpoint(tmp_path / "a.pth", variant)
        message = str(caught.value)
        assert "wan2_2" in message
        assert "missing: encoder.3.weight" in message
        assert "unexpected: decoder.99.weight" in message
        assert "misshapen: decoder.22.bias is (7,), wanted (12,)" in message


def test_weights_of_another_variant_are_refused(tmp_path: Path) -> None:
    write_state_dict(tmp_path / "a.pth", narrow_weights(VARIANTS["wan2_2"]))
    with pytest.raises(WeightsError, match="does not fit hunyuan_video_1_5"):
        load_checkpoint(tmp_path / "a.pth", VARIANTS["hunyuan_video_1_5"])


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


def test_pickled_code_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bomb.pth").write_bytes(pickle.dumps({"encoder.0.weight": Bomb()}))
    torch.save({"encoder.0.weight": Bomb()}, "zipped.pth")
    for name in ("bomb.pth", "zipped.pth"):
        with pytest.raises(WeightsError, match="cannot be read"):
            read_state_dict(Path(name))
    assert not Path("exploded").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", None])
def test_a_damaged_file_is_a_clear_error(suffix: str, content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    write_state_dict(path, narrow_weights(VARIANTS["wan2_2"]))
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_state_dict(path)


def test_a_missing_file_and_an_unknown_suffix_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no file"):
        read_state_dict(tmp_path / "a.pth")
    for call in (read_state_dict, lambda path: write_state_dict(path, {})):
        with pytest.raises(WeightsError, match=r"neither \.pth nor \.safetensors"):
            call(tmp_path / "a.bin")


def test_a_training_state_is_not_a_state_dict(tmp_path: Path) -> None:
    torch.save({"model": {"encoder.0.weight": torch.zeros(1)}, "step": 7}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="not a state dict"):
        read_state_dict(tmp_path / "a.pth")


def test_tensors_that_share_memory_are_written_whole(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    for suffix in (".pth", ".safetensors"):
        write_state_dict(tmp_path / f"a{suffix}", {"a": shared[:3], "b": shared, "c": shared.reshape(2, 3).T})
        back = read_state_dict(tmp_path / f"a{suffix}")
        assert back["a"].tolist() == [0, 1, 2] and back["c"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(AttributeError):
        write_state_dict(path, {"a": "not a tensor"})  # type: ignore[dict-item]
    assert read_state_dict(path)["a"].item() == 1 and [item.name for item in tmp_path.iterdir()] == [path.name]


def test_grow_weights_for_more_frames_than_used_give_their_last_rows(tmp_path: Path) -> None:
    """As in published checkpoints, whose first TGrow has twice the rows that the decoder uses."""
    published = replace(VARIANTS["hunyuan_video"], decoder_time_upscale=(True, True, True))
    weights = narrow_weights(published)
    write_state_dict(tmp_path / "a.pth", weights)
    model = load_checkpoint(tmp_path / "a.pth", VARIANTS["hunyuan_video"])
    used = model.state_dict()["decoder.7.conv.weight"]
    assert len(used) * 2 == len(weights["decoder.7.conv.weight"])
    assert torch.equal(used, weights["decoder.7.conv.weight"][-len(used) :])


@pytest.mark.parametrize("time", [(False, False, False), (False, True, False), (False, False, True)])
def test_a_cheaper_preview_loads_published_weights_and_skips_frames(
    time: tuple[bool, bool, bool], tmp_path: Path
) -> None:
    variant = VARIANTS["hunyuan_video"]
    weights = narrow_weights(variant)
    write_state_dict(tmp_path / "a.pth", weights)
    model = load_checkpoint(tmp_path / "a.pth", variant.preview(time_upscale=time, space_upscale=(True, False, True)))
    with torch.inference_mode():
        frames = model.decode(torch.randn(1, 3, 16, 2, 3))
    stride = 2 ** sum(time)
    assert frames.shape == (1, 3 * stride - (stride - 1), 3, 8, 12)


def test_a_preview_cannot_add_upscaling_nor_change_a_super_decoders_space() -> None:
    with pytest.raises(ValueError, match="cannot be switched on"):
        VARIANTS["hunyuan_video"].preview(time_upscale=(True, True, True))
    with pytest.raises(ValueError, match="cannot be switched off"):
        VARIANTS["wan2_2_super"].preview(space_upscale=(True, True, False))
