"""One training step on augmented clips: what teacher and student see, and what the gradient is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from support.project import REPOSITORY
from torch import Tensor, nn

from taehv.config.params import Augment, Params, load_params
from taehv.data.augment import Augmentation
from taehv.losses.objective import Objective
from taehv.model.init import create_model
from taehv.model.padding import to_float
from taehv.model.variants import VARIANTS
from taehv.training.state import TrainingState
from taehv.training.train_step import TrainStep

PARAMS = load_params(REPOSITORY / "params.yaml")
VARIANT = VARIANTS["hunyuan_video"]
GUIDE = Augment(brightness=0.15, contrast=0.15, saturation=0.15, hue=0.08, blur_sigma=(0.1, 2.0))
SLOTS = range(2, 6)
"""Those of one of several processes."""
CLIPS = torch.randint(256, (len(SLOTS), 12, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Loader:
    """Has the same clips in every step."""

    slots = SLOTS

    def frames(self, step: int) -> Tensor:
        return CLIPS


class Teacher:
    """Its latents depend on the frames; it remembers them."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def encode(self, frames: Tensor) -> Tensor:
        self.seen.append(frames.clone())
        latents = VARIANT.latent_frames(frames.shape[1])
        return frames[:, :latents, :1, ::8, ::8].expand(-1, -1, VARIANT.latent_channels, -1, -1)


class Run:
    """A training step of a small student, and the frames that both sides saw."""

    def __init__(self, augmentation: Augmentation | None, per_device: int = 4) -> None:
        self.student = create_model(VARIANT, 1 / 16, "torch_default", seed=0).double()
        self.objective = Objective(self.student, _without_adversary(PARAMS).loss, PARAMS.active)
        self.teacher = Teacher()
        self.seen: list[Tensor] = []
        self.objective.register_forward_pre_hook(self._remember)
        state = TrainingState(self.student, PARAMS.active.optim, None)
        teacher: Any = self.teacher
        loader: Any = Loader()
        self.step = TrainStep(
            Accelerator(cpu=True),
            self.objective,
            state,
            teacher,
            loader,
            global_batch=8,
            per_device=per_device,
            dtype=torch.float64,
            augmentation=augmentation,
        )

    def _remember(self, module: nn.Module, given: Sequence[Tensor]) -> None:
        self.seen.append(given[0].clone())

    def weights(self) -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.student.parameters()])


def _without_adversary(params: Params) -> Params:
    return params.model_copy(update={"loss": params.loss.model_copy(update={"seraena": 0.0})})


def test_teacher_and_student_see_the_same_augmented_frames() -> None:
    run, augmentation = Run(Augmentation(GUIDE, seed=9)), Augmentation(GUIDE, seed=9)
    for step in (1, 2):
        run.step(step)
        expected = augmentation(to_float(CLIPS, torch.float64), step, SLOTS)
        assert torch.equal(run.seen[-1], expected)
        assert torch.equal(run.teacher.seen[-1], expected)
    assert not torch.equal(run.seen[0], run.seen[1])


@pytest.mark.parametrize("per_device", [1, 3])
def test_micro_batches_of_any_size_train_the_same_augmented_clips(per_device: int) -> None:
    whole, parts = Run(Augmentation(GUIDE, seed=9)), Run(Augmentation(GUIDE, seed=9), per_device)
    report, other = whole.step(4), parts.step(4)
    assert torch.equal(torch.cat(parts.seen), torch.cat(whole.seen))
    assert other.loss == pytest.approx(report.loss, rel=1e-12)
    torch.testing.assert_close(parts.weights(), whole.weights(), rtol=1e-9, atol=1e-9)


def test_the_gradient_is_that_of_the_augmented_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    augmented = Run(Augmentation(GUIDE, seed=9))
    augmented.step(1)
    beforehand = Run(None)
    frames = Augmentation(GUIDE, seed=9)(to_float(CLIPS, torch.float64), 1, SLOTS)
    monkeypatch.setattr("taehv.training.train_step.to_float", lambda pixels, dtype: frames)
    beforehand.step(1)
    assert torch.equal(augmented.weights(), beforehand.weights())
    assert not torch.equal(augmented.weights(), Run(None).weights())


def test_each_terms_own_gradient_is_measured_on_the_same_frames() -> None:
    run = Run(Augmentation(GUIDE, seed=9))
    run.step(1, measure_terms=True)
    measured, trained = run.seen
    assert torch.equal(measured, trained)


def test_without_augmentation_the_frames_are_the_stored_pixels() -> None:
    run = Run(None)
    run.step(1)
    assert torch.equal(run.seen[0], to_float(CLIPS, torch.float64))
