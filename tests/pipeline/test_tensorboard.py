"""The event files of a finished training, read with TensorBoard's own reader."""

from __future__ import annotations

import pytest
from support.project import Project
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("stage", ["a800_test", "h100_train"])
def test_tensorboard_shows_the_curves_of_a_finished_training(finished: Project, stage: str) -> None:
    events = EventAccumulator(str(finished.root / "runs" / stage / "tensorboard")).Reload()
    history = finished.json(f"runs/{stage}/validation_history.json")["history"]
    shown = [(point.step, point.value) for point in events.Scalars("val/psnr")]
    assert [step for step, _ in shown] == [row["step"] for row in history]
    assert [value for _, value in shown] == pytest.approx([row["psnr"] for row in history], rel=1e-6)
    steps = [point.step for point in events.Scalars("train/loss")]
    assert steps == sorted(set(steps))
    assert steps[-1] == finished.json(f"runs/{stage}/summary.json")["steps"]
