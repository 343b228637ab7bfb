"""What the student is distilled from: a codec whose latents it imitates.

A teacher is one file with a class as ``Teacher`` describes, and a line of ``TEACHERS``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

from taehv.model.variants import Variant
from taehv.runtime.errors import UserError

if TYPE_CHECKING:  # the names below are part of params.yaml's schema, which needs no torch
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor


class TeacherError(UserError):
    """The teacher is missing, damaged, or made for something else. It is never replaced by another one."""


class TrainingClips(Protocol):
    """The clips that a teacher is fitted on: a ``taehv.data.clip_store.ClipStore``."""

    def __len__(self) -> int: ...

    def source_numbers(self, clip_ids: Sequence[int]) -> npt.NDArray[np.integer]:
        """For each clip a number that stands for its video."""
        ...

    def clip(self, clip_id: int) -> npt.NDArray[np.uint8]:
        """(T, 3, H, W)."""
        ...


class Teacher(Protocol):
    """A codec with the variant's compression. Frames are in [0, 1], latents as a diffusion model uses them."""

    WEIGHTS: ClassVar[str]
    """The file in the teacher's folder whose hash identifies it, and with it the dataset."""
    INFO: ClassVar[str]
    """The file that says in JSON what it is."""
    IS_LINEAR: ClassVar[bool]
    """Whether its round trip is the linear baseline."""

    @property
    def latent_channels(self) -> int: ...

    @classmethod
    def fit(cls, clips: TrainingClips, frames: int, variant: Variant, folder: Path) -> None:
        """Make the teacher of a variant from the training clips and write its files into ``folder``.

        Training will show it ``frames`` frames at a time.

        Raises:
            TeacherError: it cannot be made of these clips.
        """
        ...

    @classmethod
    def load(cls, folder: Path, variant: Variant) -> Self:
        """Read what ``fit`` wrote.

        Raises:
            TeacherError: a file is missing or damaged, or the teacher was made for another variant.
        """
        ...

    def encode(self, frames_ntchw: Tensor) -> Tensor:
        """(N, T, 3, H, W) in [0, 1] to latents (N, ceil(T / t_downscale), C, H / s, W / s)."""
        ...

    def decode(self, latents_ntchw: Tensor) -> Tensor:
        """Latents to frames (N, variant.decoded_frames(T_latents), 3, H, W), unclamped; frame j is input frame j."""
        ...

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Move to a device, and to another floating-point type if one is given; returns itself."""
        ...


TEACHERS = {"pca": "taehv.teachers.pca:PcaTeacher"}
"""The class of each ``teacher.name``, imported where it is used."""


def teacher_class(name: str) -> type[Teacher]:
    """The named kind of teacher.

    Raises:
        TeacherError: there is no such teacher.
    """
    if name not in TEACHERS:
        raise TeacherError(f"teacher.name must be {' or '.join(TEACHERS)}, got {name!r}")
    found: type[Teacher] = resolve_name(TEACHERS[name])
    return found


def load_teacher(name: str, folder: Path, variant: Variant) -> Teacher:
    """The named teacher from the folder that prepare_data wrote.

    Raises:
        TeacherError: there is no such teacher, its files are missing or damaged, or it was made for another variant.
    """
    return teacher_class(name).load(folder, variant)
