from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import torch

from taehv.config.params import load_params
from taehv.training.run_metrics import RunMetrics
from taehv.training.train_step import StepReport

REPORT = StepReport(1.0, 1.0, {"recon": 1.0}, {"recon": 1.0}, 1.0, {}, None, {"adamw": 1e-3}, False, ())


def step_of(metrics: RunMetrics, seconds: float) -> None:
    with metrics.timing_a_step():
        time.sleep(seconds)


def test_the_share_of_waiting_for_clips_is_that_of_the_steps_since_the_last_one_that_was_logged() -> None:
    spec: Any = SimpleNamespace(params=load_params())
    accelerator: Any = SimpleNamespace(device=torch.device("cpu"))
    metrics = RunMetrics(spec, accelerator, per_device=4)
    shares = []
    for steps, waited in (([0.2, 0.2], 0.2), ([0.4], 0.2), ([0.2], 0.4)):
        for seconds in steps:
            step_of(metrics, seconds)
        shares.append(metrics.training_metrics(REPORT, waited)["throughput/data_wait_share"])
    first, second, third = shares
    # Sleeping takes as long as asked for, or longer.
    assert 0.1 < first <= 0.5
    assert second == 0.0
    assert 0.2 < third <= 1.0


def test_before_any_step_nothing_was_waited_for() -> None:
    spec: Any = SimpleNamespace(params=load_params())
    accelerator: Any = SimpleNamespace(device=torch.device("cpu"))
    metrics = RunMetrics(spec, accelerator, per_device=4)
    assert metrics.training_metrics(REPORT, 3.0)["throughput/data_wait_share"] == 0.0
