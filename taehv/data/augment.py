"""Colour jitter and blur of training clips, on the device that trains, before teacher and student see the frames.

All frames of a clip are changed alike; by how much is drawn per slot, as everything is: a pure function of (seed, step,
slot). The definitions are torchvision's (``ColorJitter`` and ``GaussianBlur``; ``adjust_*`` and ``gaussian_blur`` of
``torchvision.transforms.v2.functional``, release 0.29, with which the tests compare), written down here because a
training needs torch alone, and another release must not change what a seed gives. Values stay in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from taehv.config.params import Augment
from taehv.runtime.counter_random import Purpose, below, unit, words

Adjustment = Literal["brightness", "contrast", "saturation", "hue"]
ADJUSTMENTS: tuple[Adjustment, ...] = ("brightness", "contrast", "saturation", "hue")
_ORDERS = tuple(permutations(ADJUSTMENTS))
_GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue."""


@dataclass(frozen=True)
class AugmentDraw:
    """What is done to the clip of one slot."""

    adjustments: tuple[tuple[Adjustment, float], ...]
    """In this order; factors around 1, but hue: a shift, in turns of the colour circle."""
    blur_sigma: float | None
    """Standard deviation of the blur, in pixels."""


class Augmentation:
    """Draws and applies what ``params`` allows."""

    def __init__(self, params: Augment, seed: int) -> None:
        self._params = params
        self._seed = seed

    @classmethod
    def wanted(cls, params: Augment, seed: int) -> Augmentation | None:
        """None where ``params`` switches everything off: frames then are not touched at all."""
        off = params.blur_sigma is None and not any(getattr(params, name) for name in ADJUSTMENTS)
        return None if off else cls(params, seed)

    def draw(self, step: int, slot: int) -> AugmentDraw:
        """What is done to one slot of one step."""
        *amounts, order, blur = words(self._seed, Purpose.AUGMENT, (step, slot), len(ADJUSTMENTS) + 2)
        drawn = {
            name: _around(name, getattr(self._params, name), unit(word))
            for name, word in zip(ADJUSTMENTS, amounts, strict=True)
        }
        adjustments = tuple(
            (name, drawn[name]) for name in _ORDERS[below(order, len(_ORDERS))] if getattr(self._params, name)
        )
        if self._params.blur_sigma is None:
            return AugmentDraw(adjustments, None)
        least, most = self._params.blur_sigma
        return AugmentDraw(adjustments, least + (most - least) * unit(blur))

    @torch.no_grad()
    def __call__(self, frames: Tensor, step: int, slots: Sequence[int]) -> Tensor:
        """The clips of some slots, (N, T, 3, H, W) in [0, 1], as ``step`` shows them; a new tensor."""
        return torch.stack(
            [self._applied(clip, self.draw(step, slot)) for clip, slot in zip(frames, slots, strict=True)]
        )

    def _applied(self, clip: Tensor, draw: AugmentDraw) -> Tensor:
        for name, amount in draw.adjustments:
            clip = ADJUST[name](clip, amount)
        if draw.blur_sigma is None:
            return clip
        assert self._params.blur_radius is not None
        return blur(clip, draw.blur_sigma, self._params.blur_radius)


def adjust_brightness(frames: Tensor, factor: float) -> Tensor:
    """Each value times ``factor``."""
    return (frames * factor).clamp(0, 1)


def adjust_contrast(frames: Tensor, factor: float) -> Tensor:
    """Each value's distance from its frame's mean grey times ``factor``."""
    mean = _grey(frames).mean(dim=(-3, -2, -1), keepdim=True)
    return _blend(frames, mean, factor)


def adjust_saturation(frames: Tensor, factor: float) -> Tensor:
    """Each value's distance from its pixel's grey times ``factor``."""
    return _blend(frames, _grey(frames), factor)


def adjust_hue(frames: Tensor, turns: float) -> Tensor:
    """Each pixel's hue turned by a part of the colour circle; its value and saturation (HSV) stay."""
    red, green, blue = frames.unbind(-3)
    value = frames.amax(-3)
    chroma = value - frames.amin(-3)
    span = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    sixths = torch.where(
        value == red,
        (green - blue) / span,
        torch.where(value == green, 2 + (blue - red) / span, 4 + (red - green) / span),
    )
    # In HSV a channel is the value, less the chroma times how far the hue is from where that channel is largest.
    places = [(sixths + 6 * turns + offset) % 6 for offset in (5, 3, 1)]
    channels = [value - chroma * torch.minimum(place, 4 - place).clamp(0, 1) for place in places]
    return torch.stack(channels, dim=-3).clamp(0, 1)


ADJUST: Mapping[Adjustment, Callable[[Tensor, float], Tensor]] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}


def blur(frames: Tensor, sigma: float, radius: int) -> Tensor:
    """Frames (..., H, W) where each pixel is a Gaussian mean of those up to ``radius`` away; reflected at the borders.

    Height and width must be larger than ``radius``.
    """
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(frames)
    planes = functional.pad(frames.flatten(0, -3).unsqueeze(1), (radius,) * 4, mode="reflect")
    blurred = functional.conv2d(functional.conv2d(planes, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return blurred.view(frames.shape).clamp(0, 1)


def _around(name: Adjustment, amount: float, place: float) -> float:
    """``place`` in [0, 1) of the range that ``amount`` allows; as ``ColorJitter``, no factor is below 0."""
    centre = 0.0 if name == "hue" else 1.0
    least = -amount if name == "hue" else max(centre - amount, 0.0)
    return least + (centre + amount - least) * place


def _blend(frames: Tensor, other: Tensor, factor: float) -> Tensor:
    return (factor * frames + (1 - factor) * other).clamp(0, 1)


def _grey(frames: Tensor) -> Tensor:
    weights = frames.new_tensor(_GREY).view(3, 1, 1)
    return (frames * weights).sum(-3, keepdim=True)
