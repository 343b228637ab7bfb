"""The real embedded pipeline: `python -m taehv.launch` in a fresh copy, once for all of these tests."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from support.project import Project

from taehv.data.clip_store import ClipStore

# The pipeline takes a quarter of an hour alone, and three times that beside other tests on a slow machine.
pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(5400)]

STAGES = ("prepare_data", "a800_test", "gate_psnr", "h100_train", "evaluate")


@pytest.fixture(scope="module")
def runs(pipeline_run: Project) -> dict[str, Run]:
    """The tracked run of each stage."""
    client = MlflowClient(f"sqlite:///{pipeline_run.root}/mlflow.db")
    experiment = client.get_experiment_by_name("taehv")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert len(found) == len(STAGES)
    return {run.info.run_name: run for run in found}


def test_the_gate_passes_on_held_out_real_video(pipeline_run: Project) -> None:
    verdict = pipeline_run.json("runs/gate_psnr.json")
    assert verdict["passed"] is True
    assert verdict["step"] == 1000
    assert verdict["psnr_db"] > 25.0
    assert verdict["min_psnr_db"] == 25.0


def test_validation_uses_at_least_24_clips_equally_many_per_source(pipeline_run: Project) -> None:
    dataset = pipeline_run.json("data/dataset.json")
    assert dataset["splits"]["val"]["clips"] >= 24
    records = ClipStore.open(pipeline_run.root / "data/clips", "val").records
    counts = Counter(record.source for record in records)
    assert len(counts) == 3 and len(set(counts.values())) == 1


def test_an_untrained_model_is_below_20_db(pipeline_run: Project) -> None:
    assert pipeline_run.json("runs/a800_test/summary.json")["step0_psnr_db"] < 20


def test_both_stages_have_the_same_curve_up_to_the_shorter_ones_end(pipeline_run: Project) -> None:
    short, long = (
        {row["step"]: row["psnr"] for row in pipeline_run.json(f"runs/{stage}/validation_history.json")["history"]}
        for stage in ("a800_test", "h100_train")
    )
    assert all(long[step] == psnr for step, psnr in short.items())
    assert pipeline_run.json("reports/parity.json")["verdict"] == "pass"


def test_the_report_has_its_three_numbers_and_two_baselines(pipeline_run: Project) -> None:
    report = pipeline_run.json("reports/evaluation.json")
    for stage in ("a800_test", "h100_train"):
        assert math.isfinite(report["models"][stage]["round_trip"]["psnr_db"])
        assert math.isfinite(report["models"][stage]["on_teacher_latents"]["psnr_db"])
    assert report["teacher"]["psnr_db"] > report["mean_colour"]["psnr_db"]
    assert report["final_psnr"]["passed"] is True
    assert (pipeline_run.root / "reports/index.html").is_file()
    assert list((pipeline_run.root / "reports/figures").glob("*.png"))
    assert list((pipeline_run.root / "reports/videos").glob("*.mp4"))


def test_the_decoder_does_on_teacher_latents_nearly_what_it_does_on_its_own(pipeline_run: Project) -> None:
    model = pipeline_run.json("reports/evaluation.json")["models"]["h100_train"]
    assert model["round_trip"]["psnr_db"] - model["on_teacher_latents"]["psnr_db"] <= 3.0


def test_a_second_run_runs_nothing(pipeline_run: Project) -> None:
    assert "Running stage" not in pipeline_run.run("dvc", "repro", "--dry").stdout


def test_every_stage_is_one_finished_run_with_params_and_tags(runs: dict[str, Run]) -> None:
    assert set(runs) == set(STAGES)
    for stage, run in runs.items():
        assert run.info.status == "FINISHED"
        assert run.data.tags["stage"] == stage
        assert run.data.tags["scale"] == "embedded"
        assert run.data.tags["profile"] == "local"
        assert len(run.data.tags["git_commit"]) == 40
        assert run.data.params["loss.recon"] == "10.0"
        assert run.data.params["batch.global"] == "4"


def test_training_runs_hold_the_dataset_the_curves_and_the_best_model(
    pipeline_run: Project, runs: dict[str, Run]
) -> None:
    client = MlflowClient(f"sqlite:///{pipeline_run.root}/mlflow.db")
    dataset = pipeline_run.json("data/dataset.json")["dataset_sha256"]
    for stage in ("a800_test", "h100_train"):
        run = runs[stage]
        assert run.inputs is not None
        assert run.inputs.dataset_inputs[0].dataset.digest == dataset[:32]
        history = pipeline_run.json(f"runs/{stage}/validation_history.json")["history"]
        points = client.get_metric_history(run.info.run_id, "val/psnr")
        assert [(p.step, p.value) for p in points] == [(row["step"], row["psnr"]) for row in history]
        losses = client.get_metric_history(run.info.run_id, "train/loss")
        assert all(a.step < b.step for a, b in itertools.pairwise(losses))
        names = {item.path for item in client.list_artifacts(run.info.run_id)}
        assert {"validation_history.json", "summary.json", "environment.json", "params.resolved.json"} <= names
        assert pipeline_run.json(f"runs/{stage}/mlflow.json")["model_id"] is not None


def test_passed_models_have_their_alias(pipeline_run: Project) -> None:
    client = MlflowClient(f"sqlite:///{pipeline_run.root}/mlflow.db")
    assert client.get_model_version_by_alias("taehv-hunyuan_video-embedded", "a800-passed").version
    assert client.get_model_version_by_alias("taehv-hunyuan_video-embedded", "h100-passed").version


def test_the_best_models_info_says_what_it_is(pipeline_run: Project) -> None:
    info: dict[str, Any] = pipeline_run.json("runs/h100_train/best_model/model_info.json")
    history = pipeline_run.json("runs/h100_train/validation_history.json")["history"]
    assert info["psnr"] == max(row["psnr"] for row in history)
    assert info["lpips"] is None
    assert {"step", "ssim", "fingerprint"} <= info.keys()


def test_no_work_in_progress_is_left_behind(pipeline_run: Project) -> None:
    leftovers = [path for path in (pipeline_run.root / ".work").rglob("*") if path.is_file()]
    assert leftovers == []
