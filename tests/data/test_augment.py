from __future__ import annotations

import colorsys
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taehv.config.params import Augment
from taehv.data.augment import (
    ADJUST,
    ADJUSTMENTS,
    Augmentation,
    AugmentDraw,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    blur,
)

GUIDE = Augment(brightness=0.15, contrast=0.15, saturation=0.15, hue=0.08, blur_sigma=(0.1, 2.0))
OFF = Augment(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, blur_sigma=None)


def changed(**values: object) -> Augment:
    return OFF.model_copy(update=values)


def frames(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random values in [0, 1], some of them grey, black and white."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.rand(*shape, generator=generator, dtype=torch.float64)
    made[..., 0, 0], made[..., 0, 1], made[..., 0, 2] = 0.0, 1.0, 0.25
    return made


def test_everything_off_is_no_augmentation_at_all() -> None:
    assert Augmentation.wanted(OFF, seed=1) is None
    for name in ADJUSTMENTS:
        assert Augmentation.wanted(changed(**{name: 0.1}), seed=1) is not None
    assert Augmentation.wanted(changed(blur_sigma=(0.1, 2.0)), seed=1) is not None


def test_the_draws_are_pinned() -> None:
    # Recorded once: if these change, every published run with augmentation changes with them.
    draw = Augmentation(GUIDE, seed=42).draw(999, 3)
    assert draw == PINNED


PINNED = AugmentDraw(
    (
        ("brightness", 0.8832364759601194),
        ("saturation", 1.142287381003191),
        ("contrast", 0.9184789660821546),
        ("hue", -0.009593035165108801),
    ),
    0.14224279934809944,
)


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6), st.integers(0, 127))
def test_a_draw_is_a_pure_function_of_seed_step_and_slot(seed: int, step: int, slot: int) -> None:
    used = Augmentation(GUIDE, seed)
    for other in range(3):
        used.draw(step + other, other)
    assert used.draw(step, slot) == Augmentation(GUIDE, seed).draw(step, slot)


def test_amounts_fill_their_ranges_evenly_and_the_order_is_any() -> None:
    draws = [Augmentation(GUIDE, 7).draw(step, slot) for step in range(300) for slot in range(4)]
    for name, low, high in [
        ("brightness", 0.85, 1.15),
        ("contrast", 0.85, 1.15),
        ("saturation", 0.85, 1.15),
        ("hue", -0.08, 0.08),
    ]:
        amounts = np.array([dict(draw.adjustments)[name] for draw in draws])  # type: ignore[index]
        assert low <= amounts.min() < low + 0.01 * (high - low) * 5
        assert high - 0.05 * (high - low) < amounts.max() <= high
        assert abs(amounts.mean() - (low + high) / 2) < 0.03 * (high - low)
    sigmas = np.array([draw.blur_sigma for draw in draws])
    assert 0.1 <= sigmas.min() < 0.2
    assert 1.9 < sigmas.max() <= 2.0
    assert len({tuple(name for name, _ in draw.adjustments) for draw in draws}) == 24


def test_what_is_off_is_not_drawn_and_does_not_change_the_other_draws() -> None:
    everything = Augmentation(GUIDE, 3).draw(5, 2)
    hue_alone = Augmentation(changed(hue=0.08), 3).draw(5, 2)
    assert hue_alone == AugmentDraw((("hue", dict(everything.adjustments)["hue"]),), None)


def test_no_factor_is_below_0() -> None:
    draws = [Augmentation(changed(contrast=1.0), 0).draw(step, 0) for step in range(200)]
    factors = [amount for draw in draws for _, amount in draw.adjustments]
    assert 0 <= min(factors) < 0.1
    assert 1.9 < max(factors) <= 2.0


@pytest.mark.parametrize("name", ADJUSTMENTS)
@pytest.mark.parametrize("amount", [0.0, 0.05, 0.5, 0.85, 1.15, -0.08, -0.3])
def test_an_adjustment_is_torchvisions(name: str, amount: float) -> None:
    from torchvision.transforms.v2 import functional as theirs

    if name == "hue":
        amount = (amount + 0.5) % 1.0 - 0.5  # as far as torchvision turns
    else:
        amount = abs(amount)
    given = frames(3, 3, 9, 7)
    expected = getattr(theirs, f"adjust_{name}")(given, amount)
    # To colorsys's values (below) torchvision's hue is only as near as this.
    atol = 1e-6 if name == "hue" else 1e-12
    torch.testing.assert_close(ADJUST[name](given, amount), expected, rtol=0, atol=atol)  # type: ignore[index]


@pytest.mark.parametrize(("sigma", "radius"), [(0.1, 6), (0.8, 6), (2.0, 6), (1.0, 3)])
def test_the_blur_is_torchvisions(sigma: float, radius: int) -> None:
    from torchvision.transforms.v2 import functional as theirs

    given = frames(2, 4, 3, 15, 17)
    expected = theirs.gaussian_blur(given, [2 * radius + 1] * 2, [sigma] * 2)
    torch.testing.assert_close(blur(given, sigma, radius), expected, rtol=0, atol=1e-12)


@given(st.tuples(*[st.integers(0, 8)] * 3), st.floats(-0.5, 0.5))
def test_the_hue_is_that_of_pythons_colorsys(colour: tuple[int, int, int], turns: float) -> None:
    red, green, blue = (value / 8 for value in colour)
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    expected = colorsys.hsv_to_rgb((hue + turns) % 1.0, saturation, value)
    pixel = torch.tensor([red, green, blue], dtype=torch.float64).view(3, 1, 1)
    np.testing.assert_allclose(adjust_hue(pixel, turns).flatten(), expected, atol=1e-12)


def test_by_hand() -> None:
    red = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).view(3, 1, 1)
    assert adjust_hue(red, 1 / 3).flatten().tolist() == pytest.approx([0, 1, 0])
    assert adjust_brightness(red, 0.25).flatten().tolist() == [0.25, 0, 0]
    assert adjust_saturation(red, 0.0).flatten().tolist() == pytest.approx([0.2989] * 3)
    pair = torch.tensor([0.2, 0.4], dtype=torch.float64).expand(3, 1, 2)
    # The weights of grey sum to 0.9999, as torchvision's do.
    assert adjust_contrast(pair, 0.5)[0, 0].tolist() == pytest.approx([0.25, 0.35], abs=1e-4)


@given(st.integers(0, 10**6), st.integers(0, 10**4))
def test_values_stay_in_0_to_1_and_frames_in_their_shape(seed: int, step: int) -> None:
    strong = Augment(brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5, blur_sigma=(0.1, 2.0))
    given = frames(2, 3, 3, 8, 9, seed=seed).float()
    before = given.clone()
    made = Augmentation(strong, seed)(given, step, [4, 9])
    assert made.shape == given.shape
    assert made.dtype == given.dtype
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    assert torch.equal(given, before)


def test_all_frames_of_a_clip_are_changed_alike_and_clips_differently() -> None:
    one = frames(1, 1, 3, 16, 16).expand(2, 5, 3, 16, 16)
    made = Augmentation(GUIDE, 0)(one, 1, [0, 1])
    assert all(torch.equal(made[0, 0], frame) for frame in made[0])
    assert not torch.allclose(made[0], made[1])


def test_a_slot_is_changed_alike_whatever_slots_are_computed_with_it() -> None:
    augmentation, given = Augmentation(GUIDE, 0), frames(4, 3, 3, 16, 16).float()
    together = augmentation(given, 8, range(4))
    alone = [augmentation(given[[row]], 8, [row])[0] for row in (2, 0, 3, 1)]
    for row, clip in zip((2, 0, 3, 1), alone, strict=True):
        assert torch.equal(together[row], clip)


def test_neither_a_video_nor_a_picture_library_is_loaded() -> None:
    code = "import sys, taehv.data.augment; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torchvision", "av", "PIL", "pandas"} & set(loaded)
