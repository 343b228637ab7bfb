from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from taehv.config.params import TeacherChoice
from taehv.config.sections import read_section
from taehv.model.variants import TRAINABLE, VARIANTS, Variant
from taehv.runtime.errors import ConfigError
from taehv.teachers import pca
from taehv.teachers.base import TEACHERS, TeacherError, load_teacher, teacher_class
from taehv.teachers.pca import PcaTeacher, block_values, blocks_of, fit_pca, frames_of

HUNYUAN = VARIANTS["hunyuan_video"]
COGVIDEOX = VARIANTS["cogvideox"]


def random_blocks(count: int, variant: Variant, seed: int = 0) -> Tensor:
    """Blocks in 0..255 that vary in 20 directions much, and in all a little."""
    generator = np.random.default_rng(seed)
    directions = generator.normal(size=(20, block_values(variant)))
    values = generator.normal(size=(count, 20)) * np.linspace(30, 3, 20) @ directions
    noise = generator.normal(size=values.shape)
    return torch.from_numpy(np.clip(128 + 0.3 * values + noise, 0, 255).astype(np.uint8))


def identity_teacher(variant: Variant) -> PcaTeacher:
    """Latents that are the red corner pixels of the block's frames: exact on frames that are one brightness each."""
    t, values = variant.t_downscale, block_values(variant)
    components = torch.zeros(variant.latent_channels, values)
    per_frame = values // t
    for frame in range(t):
        components[frame, frame * per_frame : (frame + 1) * per_frame] = per_frame**-0.5
    return PcaTeacher(variant, torch.zeros(values), components, torch.ones(variant.latent_channels))


def numbered(frames: int, variant: Variant) -> Tensor:
    size = variant.spatial_downscale
    return (torch.arange(frames).float() / 100).reshape(1, -1, 1, 1, 1).expand(1, frames, 3, size, 2 * size)


@pytest.fixture(scope="module")
def fitted() -> PcaTeacher:
    return fit_pca([random_blocks(3000, HUNYUAN)], HUNYUAN).teacher


def test_the_fit_equals_an_independent_one() -> None:
    blocks = random_blocks(3000, HUNYUAN)
    fit = fit_pca(blocks.split(700), HUNYUAN)
    pixels = blocks.numpy().astype(np.float64) / 255
    centred = pixels - pixels.mean(0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    variances = singular**2 / len(pixels)
    teacher = fit.teacher
    np.testing.assert_allclose(teacher.mean, pixels.mean(0), atol=1e-6)
    np.testing.assert_allclose(teacher.deviations, np.sqrt(variances[:16]), rtol=1e-5)
    np.testing.assert_allclose(fit.explained_variance, variances[:16] / variances.sum(), rtol=1e-6)
    overlap = np.abs((teacher.components.numpy() * directions[:16]).sum(1))
    np.testing.assert_allclose(overlap, 1, atol=1e-5)
    assert fit.blocks == 3000


def test_latents_of_the_fitted_blocks_are_white(fitted: PcaTeacher) -> None:
    blocks = random_blocks(3000, HUNYUAN)
    latents = (blocks / 255 - fitted.mean) @ fitted.components.T / fitted.deviations
    np.testing.assert_allclose(latents.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(latents.T, bias=True), np.eye(16), atol=1e-3)


def test_each_component_has_its_largest_entry_positive(fitted: PcaTeacher) -> None:
    largest = fitted.components.gather(1, fitted.components.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_the_fit_does_not_depend_on_how_the_blocks_are_grouped(fitted: PcaTeacher) -> None:
    again = fit_pca(reversed(random_blocks(3000, HUNYUAN).split(123)), HUNYUAN).teacher
    assert torch.equal(fitted.mean, again.mean)
    assert torch.equal(fitted.components, again.components)
    assert torch.equal(fitted.deviations, again.deviations)


def test_encoding_is_the_projection_of_each_block(fitted: PcaTeacher) -> None:
    frames = torch.rand(2, 12, 3, 16, 24)
    latents = fitted.encode(frames)
    assert latents.shape == (2, 3, 16, 2, 3)
    block = frames[1, 1:5, :, 8:16, 16:24].reshape(-1)
    expected = (fitted.components @ (block - fitted.mean)) / fitted.deviations
    torch.testing.assert_close(latents[1, 1, :, 1, 2], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", TRAINABLE.values(), ids=list(TRAINABLE))
@pytest.mark.parametrize("frames", [4, 9, 12, 13, 16, 20])
def test_decoded_frame_j_is_input_frame_j(variant: Variant, frames: int) -> None:
    video = numbered(frames, variant)
    teacher = identity_teacher(variant)
    latents = teacher.encode(video)
    assert latents.shape[1] == variant.latent_frames(frames)
    decoded = teacher.decode(latents)
    assert decoded.shape[1] == variant.decoded_frames(latents.shape[1])
    common = min(frames, decoded.shape[1])
    torch.testing.assert_close(decoded[:, :common], video[:, :common], rtol=0, atol=1e-5)


def test_twelve_frames_give_three_latents_and_nine_frames() -> None:
    blocks = blocks_of(numbered(12, HUNYUAN), HUNYUAN)
    shown = blocks[0, :, 0, 0].reshape(3, 4, -1)[..., 0] * 100
    assert shown.round().tolist() == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert frames_of(blocks, HUNYUAN).shape[1] == 9


def test_cogvideox_with_an_even_number_of_latents_starts_at_frame_0_and_repeats_the_last() -> None:
    blocks = blocks_of(numbered(7, COGVIDEOX), COGVIDEOX)
    shown = blocks[0, :, 0, 0].reshape(2, 4, -1)[..., 0] * 100
    assert shown.round().tolist() == [[0, 1, 2, 3], [4, 5, 6, 6]]


@given(st.integers(1, 2), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=20)
def test_blocks_lose_no_pixel(n: int, latents: int, rows: int, columns: int) -> None:
    frames = torch.rand(n, HUNYUAN.decoded_frames(latents), 3, rows * 8, columns * 8)
    blocks = blocks_of(frames, HUNYUAN)
    assert blocks.shape == (n, latents, rows, columns, block_values(HUNYUAN))
    assert torch.equal(frames_of(blocks, HUNYUAN), frames)


def test_a_size_that_does_not_divide_into_blocks_is_refused(fitted: PcaTeacher) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        fitted.encode(torch.zeros(1, 4, 3, 12, 16))


def test_save_and_load_give_the_same_teacher(fitted: PcaTeacher, tmp_path: Path) -> None:
    fitted.save(tmp_path, {"blocks": 3000})
    loaded = load_teacher("pca", tmp_path, HUNYUAN)
    assert loaded.latent_channels == 16
    frames = torch.rand(1, 9, 3, 16, 16)
    assert torch.equal(loaded.encode(frames), fitted.encode(frames))
    info = json.loads((tmp_path / "teacher.json").read_text())
    assert info["schema"] == 1
    assert info["block"] == {"frames": 4, "height": 8, "width": 8}


def test_it_works_in_double_precision_and_under_autocast(fitted: PcaTeacher, tmp_path: Path) -> None:
    fitted.save(tmp_path, {})
    frames = torch.rand(1, 9, 3, 16, 16)
    expected = fitted.encode(frames)
    double = load_teacher("pca", tmp_path, HUNYUAN).to("cpu", torch.float64).encode(frames.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fitted.encode(frames), expected)
        assert torch.equal(fitted.decode(expected), load_teacher("pca", tmp_path, HUNYUAN).decode(expected))


def test_a_missing_teacher_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="dvc repro -f prepare_data"):
        load_teacher("pca", tmp_path, HUNYUAN)
    with pytest.raises(TeacherError, match="must be pca, got 'wan'"):
        load_teacher("wan", tmp_path, HUNYUAN)


def test_a_damaged_teacher_or_one_of_another_variant_is_refused(fitted: PcaTeacher, tmp_path: Path) -> None:
    fitted.save(tmp_path, {})
    with pytest.raises(TeacherError, match="was fitted for hunyuan_video, not cogvideox"):
        load_teacher("pca", tmp_path, COGVIDEOX)
    weights = tmp_path / "pca.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(TeacherError, match="is damaged"):
        load_teacher("pca", tmp_path, HUNYUAN)
    (tmp_path / "teacher.json").write_text("{")
    with pytest.raises(TeacherError, match="cannot be read"):
        load_teacher("pca", tmp_path, HUNYUAN)


def test_clips_too_uniform_for_the_latents_are_an_error_and_never_noise_blown_up() -> None:
    grey = torch.full((500, block_values(HUNYUAN)), 100, dtype=torch.uint8)
    with pytest.raises(TeacherError, match="too uniform"):
        fit_pca([grey], HUNYUAN)
    with pytest.raises(TeacherError, match="not enough"):
        fit_pca([grey[:1]], HUNYUAN)


def test_params_offer_the_teachers_that_there_are() -> None:
    for name in TEACHERS:
        assert TeacherChoice(name=name).name == name
        assert teacher_class(name).WEIGHTS
    with pytest.raises(ConfigError, match=f"name: must be one of {', '.join(TEACHERS)}, got 'vae'"):
        read_section(TeacherChoice, {"name": "vae"}, "params")
    with pytest.raises(ConfigError, match=f"name: missing; expected one of {', '.join(TEACHERS)}"):
        read_section(TeacherChoice, {}, "params")


class CountedClips:
    """Clips of several sources, some noise each, that remember which were read."""

    def __init__(self, clips_of_each: list[int]) -> None:
        self._sources = np.repeat(np.arange(len(clips_of_each)), clips_of_each)
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self._sources)

    def source_numbers(self, clip_ids: Sequence[int]) -> np.ndarray:
        return self._sources[list(clip_ids)]

    def clip(self, clip_id: int) -> np.ndarray:
        self.read.append(clip_id)
        return np.random.default_rng(clip_id).integers(0, 256, (8, 3, 16, 16), dtype=np.uint8)


def test_each_clip_is_read_once_in_order_and_no_more_of_them_than_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pca, "MOST_CLIPS", 50)
    few, many = CountedClips([20, 30]), CountedClips([3] * 400)
    for number, clips in enumerate((few, many)):
        PcaTeacher.fit(clips, 8, HUNYUAN, tmp_path / str(number))
        size_looked_at, *read = clips.read
        assert size_looked_at == 0 and read == sorted(set(read))
    assert few.read[1:] == list(range(50))
    assert len(many.read) == 51 and np.ptp(np.diff(many.read[1:])) <= 1
    assert json.loads((tmp_path / "1/teacher.json").read_text())["clips"] == 50


def test_what_is_said_of_it_does_not_grow_with_the_sources(tmp_path: Path) -> None:
    for sources in (2, 200):
        PcaTeacher.fit(CountedClips([2] * sources), 8, HUNYUAN, tmp_path / str(sources))
    small, large = ((tmp_path / str(sources) / "teacher.json").stat().st_size for sources in (2, 200))
    assert abs(large - small) < 50
