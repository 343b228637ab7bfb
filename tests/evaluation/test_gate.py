"""The gate: what passes, what fails and why, and when an old verdict no longer counts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.finished_run import GOOD_HISTORY, FinishedRun, history_row, make_params

from taehv.config.params import Params
from taehv.evaluation import gate_checks
from taehv.evaluation.gate import GateRefusal, Verdict, check_fresh, judge, read_verdict, write_metrics, write_verdict
from taehv.evaluation.gate_checks import Evidence, GateCheck


@pytest.fixture
def run(tmp_path: Path) -> FinishedRun:
    """A run that deserves to pass."""
    return FinishedRun(tmp_path, make_params())


def verdict_of(run: FinishedRun, params: Params | None = None) -> Verdict:
    return judge(run.outputs, params or run.params, run.dataset_json)


def check_of(verdict: Verdict, name: str) -> GateCheck:
    return next(check for check in verdict.checks if check.name == name)


def with_last(**changes: Any) -> list[dict[str, Any]]:
    """The good history with its last row, the gate step, changed."""
    return [*GOOD_HISTORY[:-1], {**GOOD_HISTORY[-1], **changes}]


def test_a_check_is_a_function_in_the_list_of_checks(run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad_day(evidence: Evidence, params: Params) -> list[GateCheck]:
        return [GateCheck("no_bad_day", float(evidence.gate_step), 0.0, "0", False)]

    monkeypatch.setattr(gate_checks, "CHECKS", (bad_day, *gate_checks.CHECKS))
    verdict = verdict_of(run)
    assert verdict.failed_checks == ("no_bad_day",)
    assert verdict.psnr_db == 26.5
    assert "no_bad_day: 1000, must be 0" in verdict.diagnosis


class TestPsnr:
    def test_a_good_run_passes_every_check(self, run: FinishedRun) -> None:
        verdict = verdict_of(run)
        assert verdict.passed
        assert verdict.psnr_db == 26.5
        assert [check.name for check in verdict.checks if not check.passed] == []
        assert verdict.diagnosis.startswith("gate_psnr passed")

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
    @given(psnr=st.one_of(st.floats(24.0, 26.0), st.just(25.0), st.floats(allow_infinity=False)))
    def test_it_passes_exactly_above_the_limit(self, run: FinishedRun, psnr: float) -> None:
        run.write_history(with_last(psnr=psnr))
        run.write_model(seed=0, step=750, psnr=25.5)
        assert check_of(verdict_of(run), "psnr_at_gate_step").passed is (psnr > 25.0)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "27.0", True])
    def test_what_is_not_a_number_fails_and_is_null(self, run: FinishedRun, value: object) -> None:
        run.write_history(with_last(psnr=value))
        verdict = verdict_of(run)
        assert not verdict.passed
        assert verdict.psnr_db is None
        assert check_of(verdict, "psnr_at_gate_step").reason is not None

    def test_a_row_without_psnr_fails(self, run: FinishedRun) -> None:
        run.write_history([*GOOD_HISTORY[:-1], {"step": 1000}])
        assert "psnr_at_gate_step" in verdict_of(run).failed_checks

    def test_a_missing_gate_step_fails_however_good_the_others_are(self, run: FinishedRun) -> None:
        run.write_history([*GOOD_HISTORY[:-1], history_row(999, 40.0, 0.01), history_row(1001, 40.0, 0.01)])
        check = check_of(verdict_of(run), "psnr_at_gate_step")
        assert not check.passed
        assert check.value is None
        assert check.reason == "no validation at step 1000; the last one is at step 1001"

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ('{"schema": 1, "history": []}', "holds no validation"),
            ('{"schema": 1, "history": [{"psnr": 26}]}', "no whole-numbered step"),
            ('{"schema": 1, "history": [{"step": 1000, "psnr": 26}, {"step": 1000, "psnr": 26}]}', "do not rise"),
            ('{"schema": 2, "history": []}', '"schema": 1'),
            ('{"schema": 1, "history": {"1000": 30.0}}', "not a list"),
            ('{"schema": 1, "hist', "cannot be read"),
            ("", "cannot be read"),
            (None, "is missing"),
        ],
    )
    def test_an_empty_or_unreadable_history_fails_with_the_reason(
        self, run: FinishedRun, content: str | None, reason: str
    ) -> None:
        run.outputs.history.unlink()
        if content is not None:
            run.outputs.history.write_text(content, encoding="utf-8")
        verdict = verdict_of(run)
        assert not verdict.passed
        assert {"psnr_at_gate_step", "training_loss_fell", "no_collapse"} <= set(verdict.failed_checks)
        assert reason in str(check_of(verdict, "psnr_at_gate_step").reason)

    def test_nan_as_python_writes_it_into_json_is_recognised(self, run: FinishedRun) -> None:
        run.write_history(with_last(psnr=float("nan")))
        assert "NaN" in run.outputs.history.read_text(encoding="utf-8")
        assert not verdict_of(run).passed


class TestTrainingLoss:
    def test_a_loss_that_did_not_fall_fails(self, run: FinishedRun) -> None:
        run.write_history(with_last(train_loss=0.5))
        assert verdict_of(run).failed_checks == ("training_loss_fell",)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_loss_that_is_not_a_number_fails(self, run: FinishedRun, value: float) -> None:
        run.write_history(with_last(train_loss=value))
        assert verdict_of(run).failed_checks == ("training_loss_fell",)

    def test_one_window_of_losses_is_no_fall(self, run: FinishedRun) -> None:
        run.write_history([history_row(0, 9.0), history_row(1000, 26.5, 0.1)])
        check = check_of(verdict_of(run), "training_loss_fell")
        assert not check.passed
        assert check.reason == "1 window(s) of training loss; a fall needs two"

    def test_where_the_gate_step_ends_the_first_window_the_later_ones_count(self, run: FinishedRun) -> None:
        run.write_history([history_row(0, 9.0), history_row(1000, 26.5, 0.1), history_row(2000, 27.0, 0.05)])
        assert verdict_of(run).passed


class TestCollapse:
    def test_a_fall_up_to_the_gate_step_fails(self, run: FinishedRun) -> None:
        rows = [dict(row) for row in GOOD_HISTORY]
        rows[2]["psnr"] = 18.9  # 22.0 before, the limit is 3 dB
        run.write_history(rows)
        check = check_of(verdict_of(run), "no_collapse")
        assert not check.passed
        assert check.value == pytest.approx(3.1)
        assert check.reason == "at step 500"

    def test_a_fall_of_exactly_the_limit_is_allowed(self, run: FinishedRun) -> None:
        rows = [dict(row) for row in GOOD_HISTORY]
        rows[2]["psnr"] = 19.0
        run.write_history(rows)
        assert check_of(verdict_of(run), "no_collapse").passed

    def test_a_fall_after_the_gate_step_is_a_warning(self, run: FinishedRun) -> None:
        run.write_history([*GOOD_HISTORY, history_row(1250, 12.0, 0.9)])
        verdict = verdict_of(run)
        assert verdict.passed
        late = check_of(verdict, "no_collapse_after_gate_step")
        assert (late.passed, late.severity) == (False, "warning")
        assert "no_collapse_after_gate_step" in verdict.diagnosis

    def test_a_validation_without_psnr_is_not_a_good_one(self, run: FinishedRun) -> None:
        rows = [dict(row) for row in GOOD_HISTORY]
        rows[1]["psnr"] = None
        run.write_history(rows)
        check = check_of(verdict_of(run), "no_collapse")
        assert (check.passed, check.value, check.reason) == (False, None, "no PSNR at step(s) 250")


class TestBestModel:
    def test_a_missing_model_fails(self, run: FinishedRun) -> None:
        shutil.rmtree(run.outputs.best_model)
        assert verdict_of(run).failed_checks == ("best_model_loads",)

    def test_a_truncated_model_fails(self, run: FinishedRun) -> None:
        content = run.outputs.best_weights.read_bytes()
        run.outputs.best_weights.write_bytes(content[: len(content) // 2])
        assert verdict_of(run).failed_checks == ("best_model_loads",)

    def test_a_model_with_a_missing_weight_fails(self, run: FinishedRun) -> None:
        weights = load_file(run.outputs.best_weights)
        weights.popitem()
        save_file(weights, run.outputs.best_weights)
        assert verdict_of(run).failed_checks == ("best_model_loads",)

    def test_a_model_that_is_not_finite_fails(self, run: FinishedRun) -> None:
        weights = load_file(run.outputs.best_weights)
        next(iter(weights.values())).view(-1)[0] = torch.nan
        save_file(weights, run.outputs.best_weights)
        assert "are NaN or infinite" in str(check_of(verdict_of(run), "best_model_loads").reason)

    def test_a_model_of_a_step_that_was_never_validated_fails(self, run: FinishedRun) -> None:
        run.write_model(seed=0, step=600, psnr=26.5)
        assert check_of(verdict_of(run), "best_model_loads").reason == "the history has no step 600"

    def test_a_model_with_another_psnr_than_the_history_fails(self, run: FinishedRun) -> None:
        run.write_model(seed=0, step=1000, psnr=31.0)
        assert check_of(verdict_of(run), "best_model_loads").reason == "the history says 26.5 at step 1000"


class TestCountersAndHardware:
    def test_a_skipped_step_fails(self, run: FinishedRun) -> None:
        run.write_summary(counters={"skipped_steps": 1, "oom_events": 0})
        assert verdict_of(run).failed_checks == ("no_skipped_steps",)

    def test_memory_that_ran_out_and_cost_nothing_is_a_warning(self, run: FinishedRun) -> None:
        run.write_summary(counters={"skipped_steps": 0, "oom_events": 1})
        check = check_of(verdict_of(run), "no_oom_events")
        assert verdict_of(run).passed and (check.passed, check.severity) == (False, "warning")

    def test_a_missing_summary_is_not_a_good_one(self, run: FinishedRun) -> None:
        run.outputs.summary.unlink()
        failed = set(verdict_of(run).failed_checks)
        assert failed == {"no_skipped_steps", "run_of_this_params", "run_of_this_dataset"}

    def test_gpu_utilisation_is_not_asked_of_a_cpu(self, run: FinishedRun) -> None:
        assert "gpu_utilisation" not in [check.name for check in verdict_of(run).checks]

    @pytest.mark.parametrize(("percent", "good"), [(80.1, True), (80.0, False), (35.0, False), (None, False)])
    @pytest.mark.parametrize("severity", ["warning", "error"])
    def test_low_gpu_utilisation_warns_or_fails_as_the_params_say(
        self, tmp_path: Path, percent: float | None, good: bool, severity: str
    ) -> None:
        run = FinishedRun(tmp_path, make_params(gate__gpu_utilisation_severity=severity))
        run.write_summary(gpu_utilisation_percent=percent, device="NVIDIA A800")
        verdict = verdict_of(run)
        assert check_of(verdict, "gpu_utilisation").passed is good
        assert verdict.passed is (good or severity == "warning")

    def test_a_run_made_with_other_params_fails(self, run: FinishedRun) -> None:
        assert "run_of_this_params" in verdict_of(run, make_params(loss__recon=20.0)).failed_checks

    def test_a_run_made_with_other_data_fails(self, run: FinishedRun) -> None:
        run.write_summary(dataset_sha256="e" * 64)
        assert verdict_of(run).failed_checks == ("run_of_this_dataset",)

    @pytest.mark.parametrize("content", [None, "{", "{}"])
    def test_a_dataset_that_cannot_be_told_is_not_the_right_one(self, run: FinishedRun, content: str | None) -> None:
        if content is None:
            run.dataset_json.unlink()
        else:
            run.dataset_json.write_text(content)
        assert verdict_of(run).failed_checks == ("run_of_this_dataset",)
        assert "dvc checkout --force data/dataset.json" in str(check_of(verdict_of(run), "run_of_this_dataset").reason)


class TestDiagnosis:
    def test_it_names_check_value_limit_term_seed_and_dataset(self, run: FinishedRun) -> None:
        run.write_history(with_last(psnr=24.2))
        text = verdict_of(run).diagnosis
        assert "psnr_at_gate_step: 24.2, must be > 25 dB at step 1000" in text
        assert "encoder 60%, recon 40%; encoder dominates" in text
        assert "seed 42" in text
        assert "dataset dddddddddddd" in text
        assert "b.mp4 25.00, a.mp4 28.00" in text
        assert "Next:" in text

    def test_the_legacy_balance_is_recognised_but_not_blamed_alone(self, tmp_path: Path) -> None:
        params = make_params(loss__recon=0.1, loss__encoder=1.0, loss__decoder=1.0)
        run = FinishedRun(tmp_path, params)
        run.write_history(with_last(psnr=18.0))
        text = verdict_of(run).diagnosis
        assert "legacy balance" in text
        assert "look for a second cause" in " ".join(text.split())

    def test_a_configuration_without_reconstruction_is_recognised(self, tmp_path: Path) -> None:
        run = FinishedRun(tmp_path, make_params(loss__recon=0.0))
        run.write_history(with_last(psnr=18.0))
        assert "loss.recon is 0" in verdict_of(run).diagnosis

    def test_far_below_mean_colour_it_points_at_value_ranges(self, run: FinishedRun) -> None:
        run.write_history([history_row(0, 4.0), history_row(250, 4.1, 0.5), history_row(1000, 4.2, 0.4)])
        assert "4.6 dB where one side is in [-1, 1]" in verdict_of(run).diagnosis

    def test_a_run_that_was_good_before_is_told_from_a_broken_one(self, run: FinishedRun) -> None:
        run.write_history(with_last(psnr=4.2))
        text = verdict_of(run).diagnosis
        assert "25.5 dB had been reached before" in text
        assert "shift" not in text

    def test_slow_is_told_from_broken(self, run: FinishedRun) -> None:
        run.write_history([*GOOD_HISTORY[:3], history_row(750, 23.9, 0.1), history_row(1000, 24.9, 0.05)])
        text = verdict_of(run).diagnosis
        assert "slow rather than broken" in text
        assert "shift" not in text

    def test_an_early_end_is_explained(self, run: FinishedRun) -> None:
        run.write_history(GOOD_HISTORY[:-1])
        run.write_summary(stopped_early="patience")
        assert "early stopping ended the run before the gate step" in verdict_of(run).diagnosis


class TestFreshness:
    @pytest.fixture
    def verdict_path(self, run: FinishedRun, tmp_path: Path) -> Path:
        """The good run's verdict, written."""
        path = tmp_path / "runs" / "gate_psnr.json"
        write_verdict(verdict_of(run), path)
        return path

    def refusal(self, path: Path, run: FinishedRun, params: Params | None = None) -> str:
        with pytest.raises(GateRefusal) as refused:
            check_fresh(path, run.outputs, params or run.params, run.dataset_json)
        return str(refused.value)

    def test_a_fresh_pass_is_accepted_and_reads_back_as_it_was_written(
        self, verdict_path: Path, run: FinishedRun
    ) -> None:
        assert check_fresh(verdict_path, run.outputs, run.params, run.dataset_json) == verdict_of(run)

    def test_the_file_has_the_promised_form(self, verdict_path: Path) -> None:
        record = json.loads(verdict_path.read_text(encoding="utf-8"))
        promised = {"schema", "passed", "step", "psnr_db", "min_psnr_db", "checks", "diagnosis", "inputs"}
        assert promised <= record.keys()
        assert {"name", "value", "limit", "passed", "severity"} <= record["checks"][0].keys()
        wanted = {"history_sha256", "model_sha256", "params_sha256", "dataset_sha256"}
        assert all(len(record["inputs"][name]) == 64 for name in wanted)

    def test_the_metrics_say_what_was_judged_and_a_psnr_that_is_none_is_left_out(
        self, run: FinishedRun, tmp_path: Path
    ) -> None:
        file = tmp_path / "metrics.json"
        write_metrics(verdict_of(run), file)
        assert json.loads(file.read_text()) == {"psnr": 26.5, "step": 1000, "passed": True}
        run.write_history([history_row(0, 9.0), history_row(1000, None, 0.5)])
        write_metrics(verdict_of(run), file)
        assert json.loads(file.read_text()) == {"step": 1000, "passed": False}

    def test_no_verdict_is_refused(self, run: FinishedRun, tmp_path: Path) -> None:
        assert "dvc repro -f -s gate_psnr" in self.refusal(tmp_path / "nothing.json", run)

    def test_a_failed_verdict_is_refused_with_its_failed_checks(self, run: FinishedRun, verdict_path: Path) -> None:
        run.write_history(with_last(psnr=4.2))
        run.write_model(seed=0, step=750, psnr=25.5)
        write_verdict(verdict_of(run), verdict_path)
        assert "did not pass (psnr_at_gate_step, no_collapse)" in self.refusal(verdict_path, run)

    def test_a_verdict_edited_by_hand_is_refused(self, run: FinishedRun, verdict_path: Path) -> None:
        run.write_history(with_last(psnr=4.2))
        write_verdict(verdict_of(run), verdict_path)
        text = verdict_path.read_text(encoding="utf-8")
        verdict_path.write_text(text.replace('"passed": false', '"passed": true', 1), encoding="utf-8")
        assert "contradicts itself" in self.refusal(verdict_path, run)

    @pytest.mark.parametrize("content", ["", "{}", '{"schema": 1, "passed": true}', "[]"])
    def test_a_damaged_verdict_is_refused(self, run: FinishedRun, verdict_path: Path, content: str) -> None:
        verdict_path.write_text(content, encoding="utf-8")
        assert "no usable gate verdict" in self.refusal(verdict_path, run)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("inputs", None), ("inputs", []), ("psnr_db", 10**400), ("psnr_db", "26"), ("min_psnr_db", None)],
    )
    def test_a_verdict_with_a_field_of_another_kind_is_refused(
        self, run: FinishedRun, verdict_path: Path, field: str, value: object
    ) -> None:
        record = json.loads(verdict_path.read_text(encoding="utf-8"))
        verdict_path.write_text(json.dumps(record | {field: value}), encoding="utf-8")
        assert "is not what the gate writes; run: dvc repro -f -s gate_psnr" in self.refusal(verdict_path, run)

    def test_a_history_changed_afterwards_is_stale(self, run: FinishedRun, verdict_path: Path) -> None:
        run.write_history(with_last(psnr=27.0))
        assert "stale: validation_history.json changed" in self.refusal(verdict_path, run)

    def test_a_replaced_model_is_stale(self, run: FinishedRun, verdict_path: Path) -> None:
        run.write_model(seed=1, step=1000, psnr=26.5)
        assert "stale: the best model changed" in self.refusal(verdict_path, run)

    def test_another_dataset_is_stale(self, run: FinishedRun, verdict_path: Path) -> None:
        run.write(run.dataset_json, {"schema": 2, "dataset_sha256": "e" * 64, "teacher_sha256": "t"})
        assert "stale: the dataset changed" in self.refusal(verdict_path, run)

    @pytest.mark.parametrize(
        ("changes", "named"),
        [({"loss__recon": 20.0}, "the params of a800_test"), ({"gate__min_psnr_db": 26.0}, "the params of gate_psnr")],
    )
    def test_other_params_are_stale(
        self, run: FinishedRun, verdict_path: Path, changes: dict[str, Any], named: str
    ) -> None:
        assert f"stale: {named} changed" in self.refusal(verdict_path, run, make_params(**changes))

    def test_params_of_the_long_run_alone_do_not_matter(self, run: FinishedRun, verdict_path: Path) -> None:
        params = make_params(at__steps={"a800_test": 1000, "h100_train": 9000})
        check_fresh(verdict_path, run.outputs, params, run.dataset_json)

    def test_what_cannot_be_verified_is_refused(self, run: FinishedRun, verdict_path: Path) -> None:
        run.outputs.history.unlink()
        assert "cannot be verified without validation_history.json" in self.refusal(verdict_path, run)

    def test_an_unreadable_verdict_never_reads_as_passed(self, verdict_path: Path) -> None:
        record = json.loads(verdict_path.read_text(encoding="utf-8"))
        verdict_path.write_text(json.dumps({**record, "checks": []}), encoding="utf-8")
        with pytest.raises(GateRefusal):
            read_verdict(verdict_path)
