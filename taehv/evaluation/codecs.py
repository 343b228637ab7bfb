"""The ways from frames to decoded frames that reports compare: the student's, the teacher's, mean colour.

Every codec takes frames ``(N, T, 3, H, W)`` float in [0, 1] and gives decoded frames ``(N, T', 3, H, W)``, aligned
(decoded frame j is input frame j) and unclamped.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from taehv.model.taehv import TAEHV
from taehv.teachers.base import Teacher

Codec = Callable[[Tensor], Tensor]


def round_trip(model: TAEHV) -> Codec:
    """The student alone: encoder, then decoder."""
    return lambda frames: model.decode(model.encode(frames))


def on_teacher_latents(model: TAEHV, teacher: Teacher) -> Codec:
    """The student's decoder on the teacher's latents: how the model is used for previews."""
    return lambda frames: model.decode(teacher.encode(frames))


def teacher_round_trip(teacher: Teacher) -> Codec:
    """The teacher alone."""
    return lambda frames: teacher.decode(teacher.encode(frames))


def mean_colour(decoded_frames: int) -> Codec:
    """Each clip's own mean RGB over the first ``decoded_frames`` frames, the ones that every codec is compared on."""

    def fill(frames: Tensor) -> Tensor:
        compared = frames[:, :decoded_frames]
        return compared.mean(dim=(1, 3, 4), keepdim=True).expand_as(compared)

    return fill
