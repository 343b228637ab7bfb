"""What PSNR a good codec seems to have when the comparison is wrong: which mistakes look like 4.2 dB.

    make bench-comparison-mistakes

The codec is the teacher's round trip on the validation clips; each row makes one
mistake between it and PSNR. Prints the table of docs/losses.md.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from taehv.config.params import load_params
from taehv.data.clip_store import ClipStore
from taehv.evaluation.test_set import teacher_round_trip
from taehv.losses.metrics import common_frames, load_frames, psnr_per_clip
from taehv.model.variants import VARIANTS
from taehv.runtime import paths
from taehv.teachers.base import load_teacher

SHIFT = 3
Comparison = Callable[[Tensor, Tensor], Tensor]


def symmetric(frames: Tensor) -> Tensor:
    """[0, 1] to [-1, 1]."""
    return 2 * frames - 1


def unclamped_psnr(decoded: Tensor, frames: Tensor) -> Tensor:
    """Moved into a range that the metric's clamp leaves alone; the difference stays."""
    decoded, frames = common_frames(decoded, frames)
    return psnr_per_clip(torch.zeros_like(decoded), frames - decoded)


MISTAKES: dict[str, Comparison] = {
    "none": psnr_per_clip,
    "frames in [-1, 1], decoded in [0, 1]": lambda decoded, frames: psnr_per_clip(decoded, symmetric(frames)),
    "decoded in [-1, 1], frames in [0, 1]": lambda decoded, frames: unclamped_psnr(symmetric(decoded), frames),
    "the same, decoded clamped to [0, 1]": lambda decoded, frames: psnr_per_clip(symmetric(decoded), frames),
    "both in [-1, 1], a range of 1 assumed": lambda decoded, frames: unclamped_psnr(
        symmetric(decoded), symmetric(frames)
    ),
    "decoded as (x + 1) / 2, though it was in [0, 1]": lambda decoded, frames: psnr_per_clip((decoded + 1) / 2, frames),
    "red and blue exchanged": lambda decoded, frames: psnr_per_clip(decoded.flip(2), frames),
    "three frames apart": lambda decoded, frames: psnr_per_clip(decoded, frames[:, SHIFT:]),
    "upside down": lambda decoded, frames: psnr_per_clip(decoded.flip(3), frames),
    "another clip's frames": lambda decoded, frames: psnr_per_clip(decoded.roll(1, dims=0), frames),
    "all black": lambda decoded, frames: psnr_per_clip(torch.zeros_like(decoded), frames),
    "all white": lambda decoded, frames: psnr_per_clip(torch.ones_like(decoded), frames),
    "all grey": lambda decoded, frames: psnr_per_clip(torch.full_like(decoded, 0.5), frames),
}


@torch.no_grad()
def main() -> None:
    scale = load_params().active
    store = ClipStore.open(paths.CLIPS, "val")
    codec = teacher_round_trip(load_teacher(scale.teacher.name, paths.TEACHER, VARIANTS[scale.model.variant]))
    frames = load_frames(store, range(len(store)), torch.device("cpu"))
    decoded = codec(frames)
    print(f"{len(store)} validation clips\n\n| mistake | mean PSNR, dB | by clip |\n|---|---|---|")
    for name, compare in MISTAKES.items():
        psnr = compare(decoded, frames)
        print(f"| {name} | {psnr.mean():.2f} | {psnr.min():.1f} .. {psnr.max():.1f} |")


if __name__ == "__main__":
    main()
