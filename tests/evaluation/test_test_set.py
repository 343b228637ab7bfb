"""Evaluation: the numbers of the report, on small real stores and models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from support.clip_stores import VARIANT, fit_small_teacher, write_test_store
from support.finished_run import PARAMS_FILE, WIDTH, FinishedRun, history_row, make_params

from stages import evaluate as stage
from taehv.config.profiles import load_profile
from taehv.data.clip_store import ClipStore
from taehv.evaluation.parity import Parity, ParityVerdict
from taehv.evaluation.test_set import (
    Scorer,
    conclude,
    describe_evaluation,
    evaluate,
    mean_colour,
    round_trip,
    summarise,
    tracked_numbers,
)
from taehv.losses.metrics import (
    HISTORY_METRICS,
    available_metrics,
    load_frames,
    mse_per_clip,
    pooled_psnr,
    psnr_per_clip,
    score_clips,
)
from taehv.model.taehv import TAEHV
from taehv.runtime import paths
from taehv.teachers.pca import PcaTeacher
from taehv.training.state import TrainingState
from taehv.training.validation import Validator

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_lpips_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has: these tests speak about a machine without backbone weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    return write_test_store(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> PcaTeacher:
    return fit_small_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def scorer(store: ClipStore) -> Scorer:
    return Scorer(store, available_metrics(CPU), CPU, batch=3)


@pytest.fixture
def model() -> TAEHV:
    torch.manual_seed(0)
    return TAEHV(VARIANT, WIDTH).eval()


def parity_of(verdict: ParityVerdict) -> Parity:
    return Parity(verdict, "why", 0.1, (), ())


class TestMeasuring:
    def test_all_codecs_are_measured_on_the_same_frames(
        self, model: TAEHV, teacher: PcaTeacher, store: ClipStore, scorer: Scorer
    ) -> None:
        measured = evaluate({"h100_train": model}, teacher, "pca", scorer)
        frames = load_frames(store, range(len(store)), CPU)
        with torch.no_grad():
            wanted = {
                "round_trip": model.decode(model.encode(frames)),
                "on_teacher_latents": model.decode(teacher.encode(frames)),
                "teacher": teacher.decode(teacher.encode(frames)),
                "mean_colour": frames[:, :9].mean(dim=(1, 3, 4), keepdim=True).expand(-1, 9, -1, 32, 32),
            }
        assert {video.shape[1] for video in wanted.values()} == {9} == {measured["test_set"]["frames_compared"]}
        found = {**measured["models"]["h100_train"], **measured}
        for name, decoded in wanted.items():
            assert found[name]["psnr_db"] == pytest.approx(psnr_per_clip(decoded, frames).mean().item(), abs=1e-3)
            pooled = pooled_psnr(mse_per_clip(decoded, frames))
            assert found[name]["psnr_pooled_db"] == pytest.approx(pooled, abs=1e-3)

    def test_gaps_are_differences_of_the_three_numbers(self, model: TAEHV, teacher: PcaTeacher, scorer: Scorer) -> None:
        measured = evaluate({"a": model}, teacher, "pca", scorer)
        entry, best = measured["models"]["a"], measured["teacher"]["psnr_db"]
        student, decoder = entry["round_trip"]["psnr_db"], entry["on_teacher_latents"]["psnr_db"]
        assert entry["gaps_db"] == {
            "teacher_minus_round_trip": best - student,
            "teacher_minus_on_teacher_latents": best - decoder,
            "round_trip_minus_on_teacher_latents": student - decoder,
        }
        assert measured["teacher"]["is_linear_baseline"] is True

    def test_the_batch_size_does_not_matter(self, model: TAEHV, store: ClipStore) -> None:
        one, all_at_once = (
            Scorer(store, available_metrics(CPU), CPU, batch).scores(round_trip(model)) for batch in (1, len(store))
        )
        for name in one:
            torch.testing.assert_close(one[name], all_at_once[name], rtol=1e-5, atol=1e-6)

    def test_validation_gives_the_same_clips_the_same_numbers(self, model: TAEHV, store: ClipStore) -> None:
        state = TrainingState(model, make_params().active.optim)
        metrics = available_metrics(CPU, HISTORY_METRICS)
        row = Validator(Accelerator(cpu=True), store, 3, torch.float32, metrics)(state, None)
        summary = Scorer(store, metrics, CPU, batch=3).summary(round_trip(state.ema))
        for metric in HISTORY_METRICS:
            wanted = summary[metric.in_evaluation]
            assert row[str(metric.in_history)] == (wanted if wanted is None else pytest.approx(wanted, rel=1e-12))
        assert row["psnr_by_source"]["a.mp4"] == pytest.approx(summary["by_source"]["a.mp4"]["psnr_db"])

    def test_more_processes_than_clips_leave_some_without_any(self) -> None:
        nothing = score_clips(lambda frames: frames, {"psnr": psnr_per_clip}, range(0), 3, lambda _: torch.zeros(0))
        assert nothing["psnr"].shape == (0,)

    def test_an_exact_codec_reaches_the_cap_and_one_shifted_by_three_frames_does_not(self, scorer: Scorer) -> None:
        assert scorer.summary(lambda frames: frames)["psnr_db"] == 100.0
        assert scorer.summary(lambda frames: frames[:, 3:])["psnr_db"] < 25.0

    def test_each_source_and_the_worst_clip_are_reported(self, store: ClipStore, scorer: Scorer) -> None:
        scores = scorer.scores(mean_colour(9))
        summary = summarise(scores, store.records)
        psnr = scores["psnr"]
        assert list(summary["by_source"]) == ["a.mp4", "b/c.mp4"]
        assert summary["by_source"]["b/c.mp4"]["psnr_db"] == pytest.approx(psnr[2:].mean().item())
        assert summary["by_source"]["b/c.mp4"]["clips"] == 2
        worst = store.records[int(psnr.argmin())]
        assert summary["worst_clip"]["clip_id"] == worst.clip_id
        assert summary["worst_clip"]["first_frame"] == worst.first_frame
        assert summary["worst_clip"]["psnr_db"] == psnr.min().item()

    def test_lpips_without_weights_is_absent_and_said_once(
        self, model: TAEHV, teacher: PcaTeacher, scorer: Scorer
    ) -> None:
        measured = evaluate({"h100_train": model}, teacher, "pca", scorer)
        assert measured["lpips_measured"] == {"alex": False, "vgg": False}
        assert measured["teacher"]["lpips_alex"] is None
        text = describe_evaluation(conclude(measured, parity_of("pass"), 1.0))
        assert text.count("LPIPS (alex, vgg) is absent") == 1
        assert not any("lpips" in name for name in tracked_numbers(measured))

    def test_a_broken_model_gives_null_and_is_the_worst_clip(
        self, model: TAEHV, teacher: PcaTeacher, scorer: Scorer
    ) -> None:
        with torch.no_grad():
            next(model.decoder.parameters()).fill_(torch.nan)
        measured = evaluate({"h100_train": model}, teacher, "pca", scorer)
        round_trip = measured["models"]["h100_train"]["round_trip"]
        assert round_trip["psnr_db"] is None
        assert round_trip["worst_clip"]["psnr_db"] is None
        assert measured["models"]["h100_train"]["gaps_db"]["teacher_minus_round_trip"] is None
        report = conclude(measured, parity_of("pass"), 1.0)
        assert report["passed"] is False
        assert "not a number" in report["reasons"][0]
        json.dumps(report, allow_nan=False)


class TestConclusion:
    def measured(self, psnr: float | None) -> dict[str, Any]:
        return {"models": {"h100_train": {"round_trip": {"psnr_db": psnr}}}}

    @pytest.mark.parametrize(("psnr", "passed"), [(25.001, True), (25.0, False), (24.9, False), (None, False)])
    def test_the_final_psnr_must_be_above_the_limit(self, psnr: float | None, passed: bool) -> None:
        report = conclude(self.measured(psnr), parity_of("pass"), 25.0)
        assert report["passed"] is passed
        assert report["final_psnr"] == {"value": psnr, "limit": 25.0, "passed": passed}

    @pytest.mark.parametrize(
        ("verdict", "passed"), [("pass", True), ("warn", True), ("not_comparable", True), ("fail", False)]
    )
    def test_only_failed_parity_fails_the_evaluation(self, verdict: ParityVerdict, passed: bool) -> None:
        report = conclude(self.measured(30.0), parity_of(verdict), 25.0)
        assert report["passed"] is passed
        assert report["parity"]["verdict"] == verdict


class TestStage:
    @pytest.fixture
    def workspace(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A working directory in which both training stages are finished."""
        write_test_store(tmp_path / "data" / "clips")
        fit_small_teacher(tmp_path / "data" / "teacher")
        params = make_params()
        FinishedRun(tmp_path, params, "a800_test")
        long_run = FinishedRun(tmp_path, params, "h100_train")
        long_run.write_history([history_row(0, 9.0), history_row(250, 22.9, 0.5), history_row(1500, 27.0, 0.1)])
        long_run.dataset_json.unlink()  # it describes other clips
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_everything_is_written_below_reports(self, workspace: Path) -> None:
        profile = load_profile("local", PARAMS_FILE.parent / "profiles")
        report, parity = stage.measure(make_params(at__final_psnr_db=1.0), profile, ClipStore.open(paths.CLIPS, "test"))
        reports = workspace / "reports"
        files = {path.relative_to(reports).as_posix() for path in reports.rglob("*") if path.is_file()}
        assert files == {
            "evaluation.json",
            "parity.json",
            "metrics.json",
            "index.html",
            "params.resolved.yaml",
            "figures/curves.png",
            "figures/a_mp4_0.png",
            "figures/b_c_mp4_2.png",
            "videos/a_mp4_0.mp4",
            "videos/b_c_mp4_2.mp4",
        }
        assert json.loads((reports / "evaluation.json").read_text(encoding="utf-8")) == report
        final = report["models"]["h100_train"]
        assert json.loads((reports / "metrics.json").read_text(encoding="utf-8")) == {
            "psnr": final["round_trip"]["psnr_db"],
            "ssim": final["round_trip"]["ssim"],
            "psnr_on_teacher_latents": final["on_teacher_latents"]["psnr_db"],
            "delta_db": parity.max_abs_delta_db,
            "passed": report["passed"],
        }
        assert (parity.verdict, [step.step for step in parity.steps]) == ("warn", [250])
        assert set(report["models"]) == {"a800_test", "h100_train"}

    def test_a_second_report_leaves_no_figure_of_the_first(self, workspace: Path) -> None:
        stale = workspace / "reports" / "figures" / "old.png"
        stale.parent.mkdir(parents=True)
        stale.touch()
        profile = load_profile("local", PARAMS_FILE.parent / "profiles")
        stage.measure(make_params(), profile, ClipStore.open(paths.CLIPS, "test"))
        assert not stale.exists()
