"""`taehv compare` says of two runs what MLflow's comparison shows, and whether they agree."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.finished_run import GOOD_HISTORY, PARAMS_FILE, FinishedRun, history_row, make_params

from taehv.cli import main
from taehv.tracking.store import open_store, tracking_uri


@pytest.fixture
def two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[FinishedRun, FinishedRun]:
    """Finished a800_test and h100_train of a working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(PARAMS_FILE, tmp_path / "params.yaml")
    a = FinishedRun(Path(), make_params())
    b = FinishedRun(Path(), make_params(loss__recon=20.0, seed=7), "h100_train")
    b.write_summary(device="H100", git_commit="beef")
    b.write_history([{**row, "psnr": row["psnr"] + 0.25} for row in GOOD_HISTORY] + [history_row(1250, 28.0)])
    return a, b


def test_it_shows_what_differs_and_the_metrics_at_common_steps(
    two_runs: tuple[FinishedRun, FinishedRun], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "a800_test", "h100_train"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "params: loss.recon 10.0 20.0" in lines
    assert "seed: seed 42 7" in lines
    assert "hardware: device cpu H100" in lines
    assert "code: git_commit c0ffee beef" in lines
    assert "1,000 26.5000 26.7500 0.8000 0.8000 0.0500 0.0500 +0.25" in lines
    assert not [line for line in lines if line.startswith("1,250")]
    assert lines[-1] == "parity: pass (largest difference 0.25 dB, within 0.5 dB)"


@pytest.mark.parametrize(("apart", "code", "verdict"), [(1.0, 0, "warn"), (3.0, 1, "fail")])
def test_its_exit_code_is_for_scripts(
    two_runs: tuple[FinishedRun, FinishedRun], capsys: pytest.CaptureFixture[str], apart: float, code: int, verdict: str
) -> None:
    two_runs[1].write_history([{**row, "psnr": row["psnr"] + apart} for row in GOOD_HISTORY])
    assert main(["compare", "a800_test", "h100_train", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["verdict"] == verdict


def test_runs_without_a_common_step_do_not_count_as_equal(
    two_runs: tuple[FinishedRun, FinishedRun], capsys: pytest.CaptureFixture[str]
) -> None:
    two_runs[1].write_history([history_row(333, 20.0)])
    assert main(["compare", "a800_test", "h100_train"]) == 3
    assert "parity: not_comparable" in capsys.readouterr().out


def test_a_stage_that_has_not_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(PARAMS_FILE, tmp_path / "params.yaml")
    assert main(["compare", "a800_test", "h100_train"]) == 1
    assert "runs/a800_test/" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_of_mlflow_compares_like_the_files_that_it_came_from(
    two_runs: tuple[FinishedRun, FinishedRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TAEHV_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["compare", "a800_test", "0123456789abcdef0123456789abcdef"]) == 1
    assert "nothing has been tracked" in capsys.readouterr().err
    experiment = open_store()
    client = MlflowClient(tracking_uri())
    unfinished = client.create_run(experiment, run_name="a800_test").info.run_id
    tracked = []
    for run in two_runs:
        tracked.append(client.create_run(experiment).info.run_id)
        for file in (run.outputs.history, run.outputs.summary, run.outputs.params):
            client.log_artifact(tracked[-1], str(file))
    assert main(["compare", "a800_test", "h100_train", "--json"]) == 0
    from_files = capsys.readouterr().out
    assert main(["compare", *tracked, "--json"]) == 0
    assert capsys.readouterr().out == from_files
    for wrong, message in ((unfinished, "only finished"), ("0123456789abcdef0123456789abcdef", "cannot be read")):
        assert main(["compare", "a800_test", wrong]) == 1
        assert message in capsys.readouterr().err
