"""The metrics files that DVC makes tables of: few names, and never those of an earlier run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from support.project import REPOSITORY

from stages import evaluate, gate_psnr
from stages.training_stage import run_training_stage
from taehv.config.params import StageName
from taehv.runtime.dvc_metrics import FILES, MOST_NAMES, Name
from taehv.runtime.errors import ConfigError

STAGES: dict[StageName, Callable[[], int]] = {
    "a800_test": lambda: run_training_stage("a800_test", lambda params: None, []),
    "gate_psnr": gate_psnr.main,
    "h100_train": lambda: run_training_stage("h100_train", lambda params: None, []),
    "evaluate": evaluate.main,
}


def test_the_names_are_few() -> None:
    assert len(get_args(Name)) <= MOST_NAMES


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("wrong", ["params.yaml", "the profile"])
def test_a_failed_stage_leaves_no_metrics_of_an_earlier_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: StageName, wrong: str
) -> None:
    """By hand, where DVC has not cleared their places."""
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(REPOSITORY / name, name)
    if wrong == "params.yaml":
        Path(wrong).write_text("seed: many")
    else:
        monkeypatch.setenv("TAEHV_PROFILE", "absent")
    for file in FILES.values():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('{"psnr": 30.0}')
    with pytest.raises(ConfigError):
        STAGES[stage]()
    left = {other for other, file in FILES.items() if file.exists()}
    assert left == FILES.keys() - {stage}
