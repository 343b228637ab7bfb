"""Do two runs behave alike? Their validation PSNR (of the averaged weights) at the steps that both have."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from taehv.config.params import Evaluate
from taehv.config.stage_keys import STAGE_KEYS, TRAINING_KEYS, flatten, is_below
from taehv.evaluation.run_records import HistoryRow, RecordError, check_writable, finite, read_history, read_summary
from taehv.runtime import atomic_files
from taehv.runtime.paths import TrainingOutputs
from taehv.runtime.yaml_files import YamlFileError, read_yaml

ParityVerdict = Literal["pass", "warn", "fail", "not_comparable"]
DifferenceKind = Literal["seed", "data", "params", "code", "hardware", "processes"]


@dataclass(frozen=True)
class RunRecord:
    """What parity needs to know of a run."""

    history: tuple[HistoryRow, ...]
    summary: Mapping[str, Any]
    """summary.json."""
    params: Mapping[str, Any]
    """params.resolved.yaml."""

    @property
    def start(self) -> int:
        """The step that the run started from: up to here it shows another run, or the untrained model."""
        resumed = self.summary.get("resumed_from")
        return int(resumed["step"]) if resumed else 0


@dataclass(frozen=True)
class StepDelta:
    """PSNR in dB of both runs at one step; ``delta`` is b - a. None where a value is not a number."""

    step: int
    a: float | None
    b: float | None
    delta: float | None


@dataclass(frozen=True)
class Difference:
    """One thing that the runs do not share."""

    kind: DifferenceKind
    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Parity:
    """What parity.json says."""

    verdict: ParityVerdict
    reason: str
    max_abs_delta_db: float | None
    steps: tuple[StepDelta, ...]
    differences: tuple[Difference, ...]


def read_run(outputs: TrainingOutputs) -> RunRecord:
    """Read a finished run.

    Raises:
        RecordError: a file is missing or unreadable.
    """
    try:
        params = read_yaml(outputs.params)
    except (OSError, YamlFileError) as error:
        raise RecordError(f"{outputs.params} cannot be read: {error}") from error
    if not isinstance(params, dict):
        raise RecordError(f"{outputs.params} is not a mapping")
    check_writable(params, outputs.params)
    return RunRecord(read_history(outputs.history), read_summary(outputs), params)


def compare_runs(a: RunRecord, b: RunRecord, rule: Evaluate) -> Parity:
    """Compare run b with run a.

    Steps up to where a run started are left out: there both would show the same weights. A step at which a run has
    no finite PSNR fails.
    """
    start = max(a.start, b.start)
    rows_a, rows_b = ({row["step"]: row for row in run.history if row["step"] > start} for run in (a, b))
    steps = tuple(_delta(step, rows_a[step], rows_b[step]) for step in sorted(rows_a.keys() & rows_b.keys()))
    differences = tuple(find_differences(a, b))
    if not steps:
        reason = f"the runs share no validated step after step {start}"
        return Parity("not_comparable", reason, None, steps, differences)
    broken = [step.step for step in steps if step.delta is None]
    if broken:
        return Parity("fail", f"no PSNR in one of the runs at step(s) {broken}", None, steps, differences)
    largest = max(abs(step.delta) for step in steps if step.delta is not None)
    verdict, reason = _verdict(largest, rule)
    return Parity(verdict, reason, largest, steps, differences)


def find_differences(a: RunRecord, b: RunRecord) -> list[Difference]:
    """What was not equal in seed, data, params, code, hardware and processes; the stages' own lengths do not count."""
    facts: list[tuple[DifferenceKind, str, Any, Any]] = [
        ("seed", "seed", a.summary.get("seed"), b.summary.get("seed")),
        ("data", "dataset_sha256", a.summary.get("dataset_sha256"), b.summary.get("dataset_sha256")),
    ]
    params_a, params_b = _shared_params(a.params), _shared_params(b.params)
    for key in sorted(params_a.keys() | params_b.keys()):
        facts.append(("params", key, params_a.get(key), params_b.get(key)))
    batch_a, batch_b = a.summary.get("batch") or {}, b.summary.get("batch") or {}
    facts += [
        ("code", "git_commit", a.summary.get("git_commit"), b.summary.get("git_commit")),
        ("hardware", "device", a.summary.get("device"), b.summary.get("device")),
        ("processes", "processes", batch_a.get("processes"), batch_b.get("processes")),
        ("processes", "per_device", batch_a.get("per_device"), batch_b.get("per_device")),
    ]
    return [Difference(*fact) for fact in facts if fact[2] != fact[3]]


def tracked_numbers(step: StepDelta) -> dict[str, float]:
    """One step of the comparison as tracked metrics."""
    values = {"parity/a800_test": step.a, "parity/h100_train": step.b, "parity/delta_db": step.delta}
    return {name: value for name, value in values.items() if value is not None}


def write_parity(parity: Parity, path: Path) -> None:
    """parity.json."""
    atomic_files.write_json(path, {"schema": 1, **dataclasses.asdict(parity)})


def _delta(step: int, row_a: HistoryRow, row_b: HistoryRow) -> StepDelta:
    a, b = finite(row_a.get("psnr")), finite(row_b.get("psnr"))
    return StepDelta(step, a, b, None if a is None or b is None else b - a)


def _verdict(largest: float, rule: Evaluate) -> tuple[ParityVerdict, str]:
    shown = f"largest difference {largest:.2f} dB"
    if largest <= rule.parity_tolerance_db:
        return "pass", f"{shown}, within {rule.parity_tolerance_db:g} dB"
    if largest <= rule.parity_fail_db:
        return "warn", f"{shown}, above {rule.parity_tolerance_db:g} dB"
    return "fail", f"{shown}, above {rule.parity_fail_db:g} dB"


def _shared_params(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved params that both training stages and their data depend on; the seed is reported by itself."""
    wanted = {key.removeprefix("@.") for key in (*TRAINING_KEYS, *STAGE_KEYS["prepare_data"])} - {"seed"}
    flat = flatten(resolved)
    return {key: value for key, value in flat.items() if is_below(key, wanted)}
