"""Records of a training run in which one value is of another kind: judged, or refused in words; never a traceback."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.finished_run import GOOD_HISTORY, FinishedRun, make_params

from taehv.commands.compare import describe_comparison
from taehv.evaluation.gate import judge, write_verdict
from taehv.evaluation.parity import compare_runs, read_run, write_parity
from taehv.evaluation.run_records import RecordError

FILES = ("history", "summary", "best_info")
VALUES = [10**400, float("nan"), [1]]


def each_changed(content: Any, value: object) -> Iterator[tuple[str, Any]]:
    """The record with ``value`` in place of one of its parts, for every part."""

    def parts(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        if path:
            yield path
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, child in items:
            yield from parts(child, (*path, key))

    for path in parts(content, ()):
        changed = copy.deepcopy(content)
        parent = changed
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = value
        yield ".".join(map(str, path)), changed


@pytest.mark.slow
@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(value)[:8])
def test_the_gate_and_the_comparison_take_any_value_anywhere(tmp_path: Path, value: object) -> None:
    run = FinishedRun(tmp_path, make_params())
    run.write_history([GOOD_HISTORY[1], GOOD_HISTORY[-1]])
    sound = read_run(run.outputs)
    for name in FILES:
        path: Path = getattr(run.outputs, name)
        original = json.loads(path.read_text(encoding="utf-8"))
        for where, changed in each_changed(original, value):
            print(name, where)
            run.write(path, changed)
            write_verdict(judge(run.outputs, run.params, run.dataset_json), tmp_path / "verdict.json")
            try:
                damaged = read_run(run.outputs)
            except RecordError as error:
                assert path.name in str(error)
                continue
            parity = compare_runs(sound, damaged, run.params.evaluate)
            write_parity(parity, tmp_path / "parity.json")
            assert describe_comparison(["a", "b"], sound, damaged, parity)
        run.write(path, original)


def test_a_whole_number_that_no_float_can_hold_fails_the_gate(tmp_path: Path) -> None:
    run = FinishedRun(tmp_path, make_params())
    run.write_history([*GOOD_HISTORY[:-1], GOOD_HISTORY[-1] | {"psnr": 10**400}])
    run.write_summary(gpu_utilisation_percent=10**400)
    run.write(run.outputs.best_info, json.loads(run.outputs.best_info.read_text()) | {"width": 10**400})
    verdict = judge(run.outputs, run.params, run.dataset_json)
    assert verdict.psnr_db is None
    assert {"psnr_at_gate_step", "best_model_loads"} <= set(verdict.failed_checks)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("batch", True, '"batch" is not a mapping'),
        ("resumed_from", [1], '"resumed_from" has no whole-numbered step'),
        ("resumed_from", {"a": 1}, '"resumed_from" has no whole-numbered step'),
        ("batch", {"processes": float("nan")}, "is damaged"),
    ],
)
def test_a_summary_of_another_form_is_refused_before_anything_is_measured(
    tmp_path: Path, field: str, value: object, said: str
) -> None:
    run = FinishedRun(tmp_path, make_params())
    run.write_summary(**{field: value})
    with pytest.raises(RecordError, match=said):
        read_run(run.outputs)


@pytest.mark.parametrize("value", [".nan", ".inf", "2024-05-05"])
def test_resolved_params_that_no_report_can_repeat_are_refused(tmp_path: Path, value: str) -> None:
    run = FinishedRun(tmp_path, make_params())
    text = run.outputs.params.read_text(encoding="utf-8")
    run.outputs.params.write_text(text.replace("seed: 42", f"seed: {value}"), encoding="utf-8")
    with pytest.raises(RecordError, match=r"params.resolved.yaml is damaged"):
        read_run(run.outputs)
