"""Combinations that are allowed and known to disappoint get a warning with its reason; the shipped ones get none."""

from __future__ import annotations

from typing import Any

import pytest
from support.run_contexts import changed_params, changed_profile, context, found, levels

from taehv.doctor.settings import check_settings

LEGACY = {"recon": 0.1, "encoder": 1.0, "decoder": 1.0, "perceptual": 0.02, "seraena": 0.3}


def embedded(**sections: Any) -> dict[str, Any]:
    return {"scales": {"embedded": sections}}


def test_the_embedded_parameters_have_no_warning() -> None:
    assert levels(check_settings(context())) == {"batch": "pass", "balance": "pass"}


def test_the_full_scales_only_warning_is_that_no_diffusion_model_uses_its_teacher() -> None:
    check_results = check_settings(context(changed_params({"scale": "full"})))
    assert levels(check_results) == {"batch": "pass", "teacher": "warn", "balance": "pass"}
    check_result = found(check_results, "teacher")
    assert "pca" in check_result.detail and "no diffusion model uses its latents" in check_result.detail
    assert check_result.what_to_do is not None and "published checkpoint" in check_result.what_to_do


def test_several_processes_are_said_to_share_the_batch_without_deepspeed() -> None:
    eight = changed_profile("h100")
    check_result = found(check_settings(context(changed_params({"scale": "full"}), eight)), "batch")
    assert check_result.level == "pass" and "DeepSpeed is not used yet" in check_result.detail


def test_the_legacy_balance_warns_with_what_was_reported_and_what_was_measured() -> None:
    check_result = found(check_settings(context(changed_params({"loss": LEGACY}))), "loss balance")
    assert check_result.level == "warn"
    assert "4.2 dB" in check_result.detail and "27.5 dB" in check_result.detail
    assert check_result.what_to_do is not None and "recon: 10.0" in check_result.what_to_do


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"loss": {"recon": 0.0}}, "loss balance"),
        ({"loss": {"encoder": 0.0, "decoder": 0.0}}, "distillation"),
        (embedded(seraena={"start_step": 500}), "seraena start"),
        (embedded(optim={"muon_lr": 0.05}), "learning rate"),
        (embedded(optim={"lr": 1e-5}), "learning rate"),
        ({"scale": "full", "scales": {"full": {"optim": {"lr": 1e-2}}}}, "learning rate"),
        (embedded(optim={"warmup_steps": 1000, "decay_steps": 1200}), "warm-up"),
        (embedded(optim={"decay_steps": 10_000}), "schedule"),
        (embedded(optim={"decay_steps": 500}), "schedule"),
        (embedded(optim={"ema_decay": 0.5}), "moving average"),
    ],
)
def test_a_known_bad_value_warns_and_says_what_to_set(changes: dict[str, Any], name: str) -> None:
    check_result = found(check_settings(context(changed_params(changes))), name)
    assert check_result.level == "warn"
    assert check_result.what_to_do is not None and check_result.what_to_do.startswith("set ")


def test_seraena_before_the_gate_does_not_matter_where_it_is_off() -> None:
    params = changed_params({"loss": {"seraena": 0.0}, **embedded(seraena={"start_step": 1})})
    assert levels(check_settings(context(params)))["balance"] == "pass"


def test_more_processes_than_clips_in_a_batch_fail() -> None:
    eight = changed_profile(launcher="torchrun", processes=8)
    check_result = found(check_settings(context(profile=eight)), "batch")
    assert check_result.level == "fail"
    assert "must be >= the number of processes (8), got 4" in check_result.detail
