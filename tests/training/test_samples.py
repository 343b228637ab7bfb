"""Figures of a finished training are drawn after the work, and cannot lose it."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest
import torch

from stages import training_stage
from stages.training_stage import draw_samples_or_say_why
from taehv.data.dataset import Dataset
from taehv.runtime.paths import TrainingOutputs

CPU = torch.device("cpu")
DATASET = Dataset("d", "t", Path("clips"))


def failing_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(work: TrainingOutputs, dataset: Dataset, device: torch.device) -> None:
        raise error

    monkeypatch.setattr(training_stage, "draw_samples", draw)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)), RuntimeError("no font")]
)
def test_what_goes_wrong_while_they_are_drawn_is_told_and_the_training_goes_on_to_its_end(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing_with(error, monkeypatch)
    with caplog.at_level(logging.WARNING):
        said = draw_samples_or_say_why(TrainingOutputs(tmp_path), DATASET, CPU)
    assert said == f"{type(error).__name__}: {error}"
    assert "the training is complete without them" in caplog.text and "Traceback" in caplog.text


def test_a_full_disk_is_no_figure_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_with(OSError(errno.ENOSPC, "full"), monkeypatch)
    with pytest.raises(OSError, match="full"):
        draw_samples_or_say_why(TrainingOutputs(tmp_path), DATASET, CPU)


def test_the_folder_of_samples_is_there_even_where_the_model_cannot_be_read(tmp_path: Path) -> None:
    """DVC saves it as an output."""
    work = TrainingOutputs(tmp_path)
    assert draw_samples_or_say_why(work, DATASET, CPU) is not None
    assert work.samples.is_dir()
