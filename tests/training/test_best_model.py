"""`validation.best_metric` decides which weights are the best model, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pytest
import torch
from support.training_states import PARAMS, new_state, spec

from taehv.losses.metrics import MetricError
from taehv.runtime.paths import TrainingOutputs
from taehv.training.build import metrics_of_validation
from taehv.training.trainer import Trainer
from taehv.training.validation import is_better

NAN = float("nan")
MEASURED = [
    {"psnr": 20.0, "ssim": 0.5, "lpips": 0.5},
    {"psnr": 22.0, "ssim": 0.6, "lpips": 0.4},
    {"psnr": 21.0, "ssim": 0.8, "lpips": 0.3},
    {"psnr": 21.5, "ssim": 0.7, "lpips": 0.2},
    {"psnr": NAN, "ssim": NAN, "lpips": NAN},
]


def entry(step: int, psnr: float) -> dict[str, Any]:
    return {"step": step, "psnr_by_source": {}, "train_loss": None, **MEASURED[step], "psnr": psnr}


@pytest.mark.parametrize(("metric", "step"), [("psnr", 1), ("ssim", 2), ("lpips", 3)])
def test_the_best_model_is_the_best_by_the_chosen_metric(
    metric: Literal["psnr", "ssim", "lpips"], step: int, tmp_path: Path
) -> None:
    rule = PARAMS.validation.model_copy(update={"best_metric": metric})
    trainer = Trainer.__new__(Trainer)
    trainer.spec = spec(PARAMS.model_copy(update={"validation": rule}))
    trainer.work = TrainingOutputs(tmp_path)
    trainer.state = new_state()
    trainer.after_validation = None
    trainer.validate = mock.Mock(side_effect=[entry(step, row["psnr"]) for step, row in enumerate(MEASURED)])
    trainer.accelerator, trainer.recorder, trainer.run_metrics = mock.Mock(), mock.Mock(), mock.Mock()
    for now in range(len(MEASURED)):
        trainer.state.progress.step = now
        trainer._validate()
    info = json.loads((tmp_path / "best_model/model_info.json").read_text())
    assert info["step"] == trainer.state.progress.best_step == step
    assert info[metric] == MEASURED[step][metric]
    assert trainer.state.progress.validations_without_gain == len(MEASURED) - 1 - step


def test_lpips_cannot_choose_where_its_weights_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert "lpips_alex" not in metrics_of_validation("psnr", torch.device("cpu"))
    with pytest.raises(MetricError, match="needs the backbone's weights at"):
        metrics_of_validation("lpips", torch.device("cpu"))


def test_an_equal_number_is_no_gain_and_one_that_is_not_finite_never_is() -> None:
    assert is_better(MEASURED[0], None, "psnr")
    assert not is_better(MEASURED[0], MEASURED[0], "psnr")
    assert not is_better(MEASURED[0], MEASURED[0], "lpips")
    assert not is_better(MEASURED[4], None, "lpips")
