"""Parity: do two runs behave alike, and if not, what was different?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.finished_run import FinishedRun, history_row, make_params

from taehv.config.params import Evaluate, TrainingStage, resolved
from taehv.evaluation.parity import RunRecord, compare_runs, read_run, write_parity
from taehv.evaluation.run_records import RecordError

RULE = Evaluate(parity_tolerance_db=0.5, parity_fail_db=2.0)


def run_of(psnr_by_step: Mapping[int, float | None], resumed_from: int | None = None, **summary: Any) -> RunRecord:
    """A run with this curve; seed, data, params and machine are the same unless said."""
    start = None if resumed_from is None else {"stage": "a800_test", "step": resumed_from}
    same = {"seed": 42, "dataset_sha256": "d" * 64, "git_commit": "c0ffee", "device": "cpu", "resumed_from": start}
    batch = {"batch": {"global": 4, "processes": 1, "per_device": 4}}
    rows = tuple(history_row(step, psnr) for step, psnr in psnr_by_step.items())
    return RunRecord(rows, {**same, **batch, **summary}, PARAMS)


PARAMS = resolved(make_params())


TRAINING_STAGES: tuple[TrainingStage, ...] = ("a800_test", "h100_train")
BASE = {0: 9.0, 250: 20.0, 500: 22.0}


class TestVerdict:
    @pytest.mark.parametrize(
        ("delta", "verdict"),
        [(0.0, "pass"), (0.5, "pass"), (-0.5, "pass"), (0.625, "warn"), (-2.0, "warn"), (2.125, "fail"), (-9, "fail")],
    )
    def test_the_largest_difference_decides(self, delta: float, verdict: str) -> None:
        parity = compare_runs(run_of(BASE), run_of({**BASE, 500: 22.0 + delta}), RULE)
        assert parity.verdict == verdict
        assert parity.max_abs_delta_db == abs(delta)
        assert [step.delta for step in parity.steps] == [0.0, delta]

    @settings(max_examples=30, deadline=None)
    @given(st.floats(0, 60), st.floats(0, 60))
    def test_exchanging_the_runs_changes_signs_only(self, first: float, second: float) -> None:
        a, b = run_of({250: first}), run_of({250: second})
        forth, back = compare_runs(a, b, RULE), compare_runs(b, a, RULE)
        assert forth.verdict == back.verdict
        assert forth.max_abs_delta_db == back.max_abs_delta_db

    def test_only_steps_that_both_runs_validated_count(self) -> None:
        parity = compare_runs(run_of({250: 20.0, 500: 22.0}), run_of({500: 22.0, 750: 99.0}), RULE)
        assert [step.step for step in parity.steps] == [500]
        assert parity.verdict == "pass"

    def test_the_untrained_model_is_no_evidence(self) -> None:
        parity = compare_runs(run_of({0: 9.0, 250: 20.0}), run_of({0: 9.0, 300: 20.0}), RULE)
        assert parity.verdict == "not_comparable"
        assert parity.max_abs_delta_db is None

    @pytest.mark.parametrize("broken", [None, float("nan"), float("inf")])
    def test_a_step_without_a_number_fails(self, broken: float | None) -> None:
        parity = compare_runs(run_of(BASE), run_of({**BASE, 500: broken}), RULE)
        assert parity.verdict == "fail"
        assert "500" in parity.reason


class TestResumedRuns:
    def test_steps_up_to_the_resume_point_do_not_count(self) -> None:
        parity = compare_runs(run_of(BASE), run_of({0: 50.0, 250: 50.0, 500: 22.1}, resumed_from=250), RULE)
        assert [step.step for step in parity.steps] == [500]
        assert parity.verdict == "pass"

    def test_nothing_left_is_not_comparable_never_a_pass(self) -> None:
        parity = compare_runs(run_of(BASE), run_of({**BASE, 750: 23.0}, resumed_from=500), RULE)
        assert parity.verdict == "not_comparable"
        assert parity.steps == ()


class TestDifferences:
    def test_equal_runs_have_none(self) -> None:
        assert compare_runs(run_of(BASE), run_of(BASE), RULE).differences == ()

    @pytest.mark.parametrize(
        ("change", "kind", "name"),
        [
            ({"seed": 7}, "seed", "seed"),
            ({"dataset_sha256": "e" * 64}, "data", "dataset_sha256"),
            ({"git_commit": "dead"}, "code", "git_commit"),
            ({"device": "NVIDIA H100"}, "hardware", "device"),
            ({"batch": {"global": 4, "processes": 2, "per_device": 4}}, "processes", "processes"),
            ({"batch": {"global": 4, "processes": 1, "per_device": 2}}, "processes", "per_device"),
        ],
    )
    def test_each_kind_is_named_with_both_values(self, change: dict[str, Any], kind: str, name: str) -> None:
        (difference,) = compare_runs(run_of(BASE), run_of(BASE, **change), RULE).differences
        assert (difference.kind, difference.name) == (kind, name)
        assert difference.a != difference.b

    def test_params_are_named_by_their_key(self) -> None:
        a = run_of(BASE)
        b = RunRecord(a.history, a.summary, resolved(make_params(loss__recon=20.0, at__batch={"global": 8})))
        differences = compare_runs(a, b, RULE).differences
        assert [(item.kind, item.name, item.a, item.b) for item in differences] == [
            ("params", "batch.global", 4, 8),
            ("params", "loss.recon", 10.0, 20.0),
        ]

    def test_lengths_and_rules_of_other_stages_do_not_count(self) -> None:
        a = run_of(BASE)
        changed = make_params(at__steps={"a800_test": 1000, "h100_train": 9000}, evaluate__parity_fail_db=3.0)
        assert compare_runs(a, RunRecord(a.history, a.summary, resolved(changed)), RULE).differences == ()


class TestFiles:
    def test_finished_runs_are_compared_from_their_files(self, tmp_path: Path) -> None:
        short, long = (FinishedRun(tmp_path, make_params(), stage) for stage in TRAINING_STAGES)
        parity = compare_runs(read_run(short.outputs), read_run(long.outputs), RULE)
        write_parity(parity, tmp_path / "parity.json")
        record = json.loads((tmp_path / "parity.json").read_text(encoding="utf-8"))
        assert record["schema"] == 1
        assert record["verdict"] == "pass"
        assert record["max_abs_delta_db"] == 0.0
        assert record["steps"][0] == {"step": 250, "a": 22.0, "b": 22.0, "delta": 0.0}
        assert record["differences"] == []

    @pytest.mark.parametrize("name", ["history", "summary", "params"])
    def test_a_missing_file_is_an_error_that_names_it(self, tmp_path: Path, name: str) -> None:
        run = FinishedRun(tmp_path, make_params())
        path: Path = getattr(run.outputs, name)
        path.unlink()
        with pytest.raises(RecordError, match=path.name):
            read_run(run.outputs)
