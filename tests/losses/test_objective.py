"""Every configured weight is really used, on aligned frames, without a clamp in the way."""

from __future__ import annotations

import pytest
import torch
from support.project import REPOSITORY
from torch import Tensor

from taehv.config.params import Distillation, LossWeights, Seraena, load_params
from taehv.losses.distillation import encoder_per_clip
from taehv.losses.metrics import ssim_per_clip
from taehv.losses.objective import Objective, Outputs, recon_per_clip, weighted_sum
from taehv.losses.perceptual import ssim_distance_per_clip
from taehv.losses.seraena import seraena_per_clip
from taehv.model.init import create_model
from taehv.model.taehv import TAEHV
from taehv.model.variants import VARIANTS

VARIANT = VARIANTS["hunyuan_video"]
WEIGHTS = LossWeights(recon=10.0, encoder=0.1, decoder=0.1, perceptual=0.1, seraena=0.1)
TERMS = ("recon", "encoder", "decoder", "perceptual", "seraena")
SERAENA = Seraena(start_step=5, ramp_steps=3, group_frames=5, width=4, lr=1e-3, replay_mib=1)
DISTILLATION = Distillation(boost=100.0, until_step=10, end_step=20)
SCALE = load_params(REPOSITORY / "params.yaml").active.model_copy(
    update={"distillation": DISTILLATION, "seraena": SERAENA}
)
LATE = 100
"""A step at which every term has its full weight."""


def student() -> TAEHV:
    return create_model(VARIANT, 1 / 16, "torch_default", seed=1)


def frames() -> Tensor:
    return torch.rand(2, 8, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def teacher_latents() -> Tensor:
    return torch.randn(2, 2, 16, 2, 2, generator=torch.Generator().manual_seed(3))


def objective_of(weights: LossWeights) -> Objective:
    return Objective(student(), weights, SCALE)


def terms_of(objective: Objective) -> dict[str, Tensor]:
    """With random corrections for the adversary's; tests/training/test_adversary.py has the real ones."""
    outputs: Outputs = objective(frames(), teacher_latents(), keep_decoded=objective.needs_adversary)
    if outputs.decoded is None:
        return outputs.terms
    corrections = torch.randn(outputs.decoded.shape, generator=torch.Generator().manual_seed(4))
    return outputs.terms | {"seraena": seraena_per_clip(outputs.decoded, corrections)}


def gradient(weights: LossWeights) -> Tensor:
    objective = objective_of(weights)
    weighted_sum(terms_of(objective), objective.weights_at(LATE)).backward()
    parts = [p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in objective.parameters()]
    return torch.cat(parts)


@pytest.mark.parametrize("term", TERMS)
def test_changing_one_weight_alone_changes_the_gradient(term: str) -> None:
    changed = WEIGHTS.model_copy(update={term: 2 * getattr(WEIGHTS, term)})
    assert not torch.equal(gradient(WEIGHTS), gradient(changed))


def test_the_gradient_is_the_weighted_sum_of_each_terms_gradient() -> None:
    """Also: the recon weight holds with and without a teacher."""
    expected = sum(getattr(WEIGHTS, term) * gradient(only(term)) for term in TERMS)
    torch.testing.assert_close(gradient(WEIGHTS), expected, rtol=1e-4, atol=1e-6)


def only(term: str) -> LossWeights:
    return WEIGHTS.model_copy(update={name: 1.0 if name == term else 0.0 for name in TERMS})


@pytest.mark.parametrize("term", TERMS)
def test_a_term_without_weight_is_not_computed(term: str) -> None:
    objective = objective_of(WEIGHTS.model_copy(update={term: 0.0}))
    assert set(terms_of(objective)) == set(objective.weights_at(LATE)) == set(TERMS) - {term}


def test_the_adversarial_term_comes_in_at_its_step_and_grows_to_its_weight() -> None:
    weights = [objective_of(WEIGHTS).weights_at(step).get("seraena") for step in range(4, 11)]
    assert weights == pytest.approx([None, 0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_before_its_step_the_adversarial_term_is_not_computed() -> None:
    objective = objective_of(WEIGHTS)
    outputs = objective(frames(), teacher_latents())
    assert set(outputs.terms) == set(objective.weights_at(4))
    assert outputs.decoded is outputs.latents is None


def test_the_perceptual_term_is_one_minus_ssim_of_unclamped_frames() -> None:
    bright = (frames() + 0.6).requires_grad_()
    loss = ssim_distance_per_clip(bright, frames())
    loss.sum().backward()
    assert bright.grad is not None
    assert bright.grad[bright.detach() > 1].abs().min() > 0
    assert ssim_distance_per_clip(frames(), frames()).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    darker = 0.5 * frames()
    assert (1 - ssim_distance_per_clip(darker, frames())).tolist() == pytest.approx(
        ssim_per_clip(darker, frames()).tolist()
    )


def test_without_encoder_and_decoder_terms_no_teacher_is_needed() -> None:
    objective = objective_of(only("recon"))
    assert not objective.needs_teacher
    assert set(objective(frames(), None).terms) == {"recon"}


def test_the_target_of_decoded_frame_j_is_frame_j() -> None:
    """Frames that show their number: the loss is zero only for the unshifted target."""
    numbers = torch.arange(12.0).reshape(1, 12, 1, 1, 1).expand(1, 12, 3, 8, 8)
    decoded = numbers[:, :9]
    assert recon_per_clip(decoded, numbers).item() == 0.0
    assert recon_per_clip(decoded, numbers[:, 3:]).item() == pytest.approx(9.0)


def test_the_loss_sees_values_outside_0_1() -> None:
    target = torch.ones(1, 1, 3, 8, 8)
    too_bright = torch.full_like(target, 1.5).requires_grad_()
    loss = recon_per_clip(too_bright, target)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.25)
    assert too_bright.grad is not None
    assert too_bright.grad.abs().min() > 0


def test_the_models_decoder_output_is_not_clamped() -> None:
    model = student()
    with torch.no_grad():
        for layer in (model.decoder[-1],):
            layer.bias.fill_(3.0)  # type: ignore[union-attr,operator]
        assert model.decode(teacher_latents()).min() > 1.0


def test_latents_of_another_shape_are_refused_not_broadcast() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        encoder_per_clip(torch.zeros(2, 3, 16, 2, 2), torch.zeros(2, 1, 16, 2, 2))


def test_the_teacher_holds_the_student_harder_at_first_and_at_the_end_as_the_parameters_say() -> None:
    objective = objective_of(WEIGHTS)
    for term in ("encoder", "decoder"):
        by_step = {step: objective.weights_at(step)[term] for step in (1, 10, 15, 20, LATE)}
        assert by_step == pytest.approx({1: 10.0, 10: 10.0, 15: 1.0, 20: 0.1, LATE: 0.1})
    for term in ("recon", "perceptual"):
        assert (
            objective.weights_at(1)[term] == objective.weights_at(LATE)[term] == 0.1 * (100 if term == "recon" else 1)
        )


def test_a_distilled_term_of_weight_0_stays_out_however_large_the_boost() -> None:
    objective = objective_of(WEIGHTS.model_copy(update={"encoder": 0.0}))
    assert "encoder" not in objective.weights_at(1)


def test_in_bfloat16_each_term_and_its_gradient_stay_close_to_full_precision() -> None:
    """What `precision: bf16` does to a student that is already good: flat, bright and dark areas, small errors."""
    originals = torch.linspace(0.05, 0.95, 19)[:, None, None, None, None].expand(19, 1, 3, 24, 24).contiguous()
    noise = torch.randn(originals.shape, generator=torch.Generator().manual_seed(5)) * 0.004
    decoded = (originals + noise).bfloat16()
    for term, distance in (("recon", recon_per_clip), ("perceptual", ssim_distance_per_clip)):
        exact = decoded.float().requires_grad_()
        expected = distance(exact, originals)
        expected.sum().backward()
        rounded = decoded.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            found = distance(rounded, originals)
        found.sum().backward()
        assert torch.all((found >= 0) & (found <= 1)), term
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert exact.grad is not None and rounded.grad is not None
        torch.testing.assert_close(rounded.grad.float(), exact.grad, rtol=1e-2, atol=1e-6)


def test_steps_compare_by_the_weights_of_params_whatever_the_schedule() -> None:
    objective = objective_of(WEIGHTS)
    assert objective.weights_at(1)["encoder"] == WEIGHTS.encoder * DISTILLATION.boost
    assert objective.distance_weights == {"recon": 10.0, "encoder": 0.1, "decoder": 0.1, "perceptual": 0.1}
