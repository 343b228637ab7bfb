"""What the gate looks at, one check at a time. A check is a function and its place in ``CHECKS``, at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from taehv.config.params import Params
from taehv.config.stage_keys import stage_params
from taehv.data.dataset import Dataset
from taehv.data.store_files import StoreError
from taehv.evaluation.run_records import HistoryRow, RecordError, finite, read_history, read_summary
from taehv.model.checkpoints import WeightsError, load_model
from taehv.runtime import paths
from taehv.runtime.hashing import sha256_of_json
from taehv.runtime.paths import TrainingOutputs

Severity = Literal["error", "warning"]
PSNR_CHECK = "psnr_at_gate_step"


@dataclass(frozen=True)
class GateCheck:
    """One thing that was looked at. A failed one with severity ``error`` fails the gate."""

    name: str
    value: float | str | None
    """What was found; None where it could not be measured."""
    limit: float | str
    """What was demanded, with ``rule``."""
    rule: str
    """How value and limit relate when the check passes, in words: ``> 25 dB``."""
    passed: bool
    severity: Severity = "error"
    reason: str | None = None
    """Why it could not be measured, or what exactly is wrong."""


@dataclass(frozen=True)
class Evidence:
    """What a run left, as far as it could be read."""

    gate_step: int
    history: tuple[HistoryRow, ...]
    history_problem: str | None
    """Why the history is empty."""
    summary: dict[str, Any]
    """summary.json, or empty."""
    summary_problem: str | None
    dataset_sha256: str | None
    best_model: Path

    @property
    def gate_row(self) -> HistoryRow | None:
        return next((row for row in self.history if row["step"] == self.gate_step), None)

    @property
    def up_to_gate(self) -> tuple[HistoryRow, ...]:
        return tuple(row for row in self.history if row["step"] <= self.gate_step)


def gather(outputs: TrainingOutputs, params: Params, dataset_json: Path) -> Evidence:
    """Read what the run left; what cannot be read is left out, with the reason."""
    history: tuple[HistoryRow, ...] = ()
    history_problem = summary_problem = None
    summary: dict[str, Any] = {}
    try:
        history = read_history(outputs.history)
        history_problem = None if history else f"{outputs.history} holds no validation"
    except RecordError as error:
        history_problem = str(error)
    try:
        summary = read_summary(outputs)
    except RecordError as error:
        summary_problem = str(error)
    dataset_sha256 = dataset_hash(dataset_json)
    return Evidence(
        params.gate.step, history, history_problem, summary, summary_problem, dataset_sha256, outputs.best_model
    )


def dataset_hash(dataset_json: Path) -> str | None:
    """The dataset's identity; None where there is no readable dataset.json."""
    try:
        return Dataset.open(dataset_json).sha256
    except StoreError:
        return None


def all_checks(evidence: Evidence, params: Params) -> tuple[GateCheck, ...]:
    """Every check that applies to this run."""
    return tuple(check for look in CHECKS for check in look(evidence, params))


def describe_check(check: GateCheck) -> str:
    """A check in one line of words."""
    if isinstance(check.value, float):
        found = f"{check.value:.6g}"
    else:
        found = "not measured" if check.value is None else check.value
    because = f" ({check.reason})" if check.reason else ""
    return f"{found}, must be {check.rule}{because}"


def _psnr_check(evidence: Evidence, params: Params) -> list[GateCheck]:
    limit = params.gate.min_psnr_db
    row = evidence.gate_row
    psnr = finite(row["psnr"]) if row and "psnr" in row else None
    reason = evidence.history_problem
    if reason is None and row is None:
        reason = f"no validation at step {params.gate.step}; the last one is at step {evidence.history[-1]['step']}"
    elif reason is None and psnr is None:
        reason = "the validation there gave no finite number"
    passed = psnr is not None and psnr > limit
    return [GateCheck(PSNR_CHECK, psnr, limit, f"> {limit:g} dB at step {params.gate.step}", passed, reason=reason)]


def _loss_check(evidence: Evidence, params: Params) -> list[GateCheck]:
    rows = evidence.up_to_gate
    # One window of losses cannot fall: where the gate step ends the first one, the run's later windows are used.
    losses = [row["train_loss"] for row in rows if row.get("train_loss") is not None]
    if len(losses) < 2:
        losses = [row["train_loss"] for row in evidence.history if row.get("train_loss") is not None]
    rule = "below the training loss of the first validation window"
    if len(losses) < 2:
        reason = evidence.history_problem or f"{len(losses)} window(s) of training loss; a fall needs two"
        return [GateCheck("training_loss_fell", None, "first window", rule, False, reason=reason)]
    first, last = finite(losses[0]), finite(losses[-1])
    if first is None or last is None:
        reason = f"first {losses[0]}, last {losses[-1]}"
        return [GateCheck("training_loss_fell", last, "first window", rule, False, reason=reason)]
    return [GateCheck("training_loss_fell", last, first, f"{rule}, {first:.4g}", last < first)]


def _collapse_checks(evidence: Evidence, params: Params) -> list[GateCheck]:
    checks = [_collapse_check("no_collapse", evidence.up_to_gate, evidence, params, "error")]
    if len(evidence.history) > len(evidence.up_to_gate):
        checks.append(_collapse_check("no_collapse_after_gate_step", evidence.history, evidence, params, "warning"))
    return checks


def _collapse_check(
    name: str, rows: tuple[HistoryRow, ...], evidence: Evidence, params: Params, severity: Severity
) -> GateCheck:
    limit = params.gate.max_collapse_db
    rule = f"a fall of at most {limit:g} dB below the best validation before it"
    values = [finite(row.get("psnr")) for row in rows]
    if not values or None in values:
        unmeasured = [str(row["step"]) for row, value in zip(rows, values, strict=True) if value is None]
        reason = evidence.history_problem or f"no PSNR at step(s) {', '.join(unmeasured) or params.gate.step}"
        return GateCheck(name, None, limit, rule, False, severity, reason)
    fall, step, best = 0.0, rows[0]["step"], float("-inf")
    for row, value in zip(rows, values, strict=True):
        assert value is not None
        if best - value > fall:
            fall, step = best - value, row["step"]
        best = max(best, value)
    passed = fall <= limit
    return GateCheck(name, fall, limit, rule, passed, severity, None if passed else f"at step {step}")


def _model_check(evidence: Evidence, params: Params) -> list[GateCheck]:
    name, rule = "best_model_loads", "a model whose step and PSNR are in the history"
    try:
        _, info = load_model(evidence.best_model)
    except WeightsError as error:
        return [GateCheck(name, None, rule, rule, False, reason=str(error))]
    described = f"step {info.get('step')}, PSNR {info.get('psnr')}"
    row = next((row for row in evidence.history if row["step"] == info.get("step")), None)
    problem = None
    if row is None:
        problem = evidence.history_problem or f"the history has no step {info.get('step')}"
    elif finite(info.get("psnr")) is None or info["psnr"] != row.get("psnr"):
        problem = f"the history says {row.get('psnr')} at step {row['step']}"
    return [GateCheck(name, described, rule, rule, problem is None, reason=problem)]


def _counter_checks(evidence: Evidence, params: Params) -> list[GateCheck]:
    counters = evidence.summary.get("counters")
    checks = []
    # Running out of memory ended a process, not the training: the result is that of a run that never did.
    severities: dict[str, Severity] = {"skipped_steps": "error", "oom_events": "warning"}
    for counter, severity in severities.items():
        value = finite(counters.get(counter)) if isinstance(counters, dict) else None
        reason = (evidence.summary_problem or "summary.json does not count it") if value is None else None
        checks.append(GateCheck(f"no_{counter}", value, 0.0, "0", value == 0.0, severity, reason))
    return checks


def _gpu_checks(evidence: Evidence, params: Params) -> list[GateCheck]:
    """None on a CPU; on a GPU an unmeasured utilisation does not count as a good one."""
    value = finite(evidence.summary.get("gpu_utilisation_percent"))
    if value is None and evidence.summary.get("device", "cpu") == "cpu":
        return []
    limit = params.gate.min_gpu_utilisation_percent
    reason = "not measured on this GPU" if value is None else None
    passed = value is not None and value > limit
    severity = params.gate.gpu_utilisation_severity
    return [GateCheck("gpu_utilisation", value, limit, f"> {limit:g} %", passed, severity, reason)]


def _identity_checks(evidence: Evidence, params: Params) -> list[GateCheck]:
    """The run must have been made with the present params and dataset, or its numbers are about something else."""
    wanted = {"params": sha256_of_json(stage_params(params, "a800_test")), "dataset": evidence.dataset_sha256}
    checks = []
    for what, limit in wanted.items():
        value = evidence.summary.get(f"{what}_sha256")
        passed = limit is not None and value == limit
        if limit is None:
            reason: str | None = f"{paths.DATASET} cannot be read: dvc checkout --force {paths.DATASET}"
        else:
            again = f"the run used another {what}: dvc repro -f -s a800_test"
            reason = None if passed else evidence.summary_problem or again
        shown = "unknown" if limit is None else limit
        checks.append(GateCheck(f"run_of_this_{what}", value, shown, f"{shown[:12]}...", passed, reason=reason))
    return checks


CHECKS: tuple[Callable[[Evidence, Params], Iterable[GateCheck]], ...] = (
    _psnr_check,
    _loss_check,
    _collapse_checks,
    _model_check,
    _counter_checks,
    _gpu_checks,
    _identity_checks,
)
"""In the order of the verdict. Each gives the checks that apply to the run, possibly none."""
