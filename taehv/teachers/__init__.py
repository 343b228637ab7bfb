"""What the student is distilled from: a codec whose latents it imitates."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from taehv.model.variants import Variant
from taehv.runtime.errors import UserError


class TeacherError(UserError):
    """The teacher is missing, damaged, or made for something else. It is never replaced by another one."""


class Teacher(Protocol):
    """A codec with the variant's compression. Frames are in [0, 1], latents as a diffusion model uses them."""

    @property
    def latent_channels(self) -> int: ...

    def encode(self, frames_ntchw: Tensor) -> Tensor:
        """(N, T, 3, H, W) in [0, 1] to latents (N, ceil(T / t_downscale), C, H / s, W / s)."""
        ...

    def decode(self, latents_ntchw: Tensor) -> Tensor:
        """Latents to frames (N, variant.decoded_frames(T_latents), 3, H, W), unclamped; frame j is input frame j."""
        ...

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Move to a device, and to another floating-point type if one is given; returns itself."""
        ...


def load_teacher(name: str, folder: Path, variant: Variant) -> Teacher:
    """The named teacher from the folder that prepare_data wrote.

    Raises:
        TeacherError: there is no such teacher, its files are missing or damaged, or it was made for another variant.
    """
    if name != "pca":
        raise TeacherError(f"teacher.name must be pca, got {name!r}")
    from taehv.teachers.pca import PcaTeacher

    return PcaTeacher.load(folder, variant)
