"""The gate between the cheap run and the expensive one: a verdict from files alone.

What was not measured does not pass: NaN, a missing validation, an unreadable file each fail their check, and the
check says why. The verdict names the files that it judged by their hashes, so that a later stage can tell whether it
still speaks about what lies there now.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from taehv.config.params import Params
from taehv.config.stage_keys import stage_params
from taehv.evaluation.diagnosis import diagnose
from taehv.evaluation.gate_checks import PSNR_CHECK, GateCheck, all_checks, dataset_hash, describe_check, gather
from taehv.evaluation.run_records import RecordError, finite, read_record
from taehv.runtime import atomic_files, dvc_metrics
from taehv.runtime.errors import UserError
from taehv.runtime.hashing import sha256_of_file, sha256_of_json
from taehv.runtime.paths import TrainingOutputs


class GateRefusal(UserError):  # noqa: N818 - what it does is refuse
    """The next stage may not start."""


@dataclass(frozen=True)
class Verdict:
    """What gate_psnr.json says."""

    step: int
    psnr_db: float | None
    min_psnr_db: float
    checks: tuple[GateCheck, ...]
    diagnosis: str
    inputs: dict[str, str | None]
    """Hashes of what was judged."""

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks if check.severity == "error")

    @property
    def failed_checks(self) -> tuple[str, ...]:
        """Names of the checks that failed the gate."""
        return tuple(check.name for check in self.checks if not check.passed and check.severity == "error")


def judge(outputs: TrainingOutputs, params: Params, dataset_json: Path) -> Verdict:
    """Judge a finished run by its files, the params and the dataset's identity, and nothing else."""
    evidence = gather(outputs, params, dataset_json)
    checks = all_checks(evidence, params)
    value = next(check.value for check in checks if check.name == PSNR_CHECK)
    verdict = Verdict(
        step=params.gate.step,
        psnr_db=value if isinstance(value, float) else None,
        min_psnr_db=params.gate.min_psnr_db,
        checks=checks,
        diagnosis="",
        inputs=current_inputs(outputs, params, dataset_json),
    )
    lines = [
        f"{check.name}: {describe_check(check)}" for check in checks if not check.passed and check.severity == "error"
    ]
    notes = [
        f"{check.name}: {describe_check(check)}" for check in checks if not check.passed and check.severity == "warning"
    ]
    return dataclasses.replace(verdict, diagnosis=diagnose(evidence, params, lines, notes))


def tracked_numbers(verdict: Verdict) -> dict[str, float]:
    """The verdict and each measured check as tracked metrics."""
    measured = {f"gate/{check.name}": check.value for check in verdict.checks if isinstance(check.value, float)}
    return {"gate/passed": float(verdict.passed), **measured}


def version_tags(verdict: Verdict) -> dict[str, str]:
    """What the registry says about a model that passed."""
    return {"val_psnr_db": str(verdict.psnr_db), "dataset_sha256": str(verdict.inputs["dataset_sha256"])}


def describe_passed(verdict: Verdict) -> str:
    """Why it passed, in one line."""
    return f"validation PSNR {verdict.psnr_db:.2f} dB at step {verdict.step}, must be > {verdict.min_psnr_db:g} dB"


def write_verdict(verdict: Verdict, path: Path) -> None:
    """gate_psnr.json. The diagnosis is a list of lines."""
    plain = dataclasses.asdict(verdict) | {"diagnosis": verdict.diagnosis.splitlines()}
    atomic_files.write_json(path, {"schema": 1, "passed": verdict.passed, **plain})


def write_metrics(verdict: Verdict, path: Path) -> None:
    """What DVC's tables show of the verdict, and of the validation that it is about."""
    dvc_metrics.write(path, {"psnr": verdict.psnr_db, "step": verdict.step, "passed": verdict.passed})


def read_verdict(path: Path) -> Verdict:
    """A written verdict.

    Raises:
        GateRefusal: it is missing, damaged, or contradicts itself.
    """
    try:
        record = read_record(path)
        checks = tuple(GateCheck(**check) for check in record["checks"])
        fields = {name: record[name] for name in ("step", "psnr_db", "min_psnr_db", "inputs")}
        diagnosis = "\n".join(record["diagnosis"])
        passed = record["passed"]
    except (RecordError, KeyError, TypeError) as error:
        raise GateRefusal(f"no usable gate verdict: {error}; run: dvc repro -f -s gate_psnr") from error
    measured = fields["psnr_db"] is None or finite(fields["psnr_db"]) is not None
    if not isinstance(fields["inputs"], dict) or not measured or finite(fields["min_psnr_db"]) is None:
        raise GateRefusal(
            f'no usable gate verdict: "inputs", "psnr_db" or "min_psnr_db" of {path} is not what the gate writes; '
            "run: dvc repro -f -s gate_psnr"
        )
    verdict = Verdict(checks=checks, diagnosis=diagnosis, **fields)
    if passed is not verdict.passed or not checks:
        raise GateRefusal(
            f"{path} contradicts itself: its checks do not give passed = {passed}; run: dvc repro -f -s gate_psnr"
        )
    return verdict


def check_fresh(verdict_path: Path, outputs: TrainingOutputs, params: Params, dataset_json: Path) -> Verdict:
    """The passed verdict, proven to be about the present files, params and dataset.

    Raises:
        GateRefusal: there is no verdict, it did not pass, or something that it judged has changed since; each is named.
    """
    verdict = read_verdict(verdict_path)
    if not verdict.passed:
        failed = ", ".join(verdict.failed_checks)
        raise GateRefusal(
            f"the gate did not pass ({failed}); {verdict_path} has the diagnosis. Fix it, then: dvc repro"
        )
    now = current_inputs(outputs, params, dataset_json)
    missing = [_INPUT_NAMES[name] for name in now if now[name] is None]
    if missing:
        raise GateRefusal(
            f"the gate's verdict cannot be verified without {', '.join(missing)}; "
            "run: dvc repro gate_psnr (on a second machine: dvc pull gate_psnr --with-deps)"
        )
    changed = [_INPUT_NAMES[name] for name in now if now[name] != verdict.inputs.get(name)]
    if changed:
        raise GateRefusal(
            f"the gate's verdict is stale: {', '.join(changed)} changed since; run: dvc repro -f -s gate_psnr"
        )
    return verdict


def current_inputs(outputs: TrainingOutputs, params: Params, dataset_json: Path) -> dict[str, str | None]:
    """Hashes of what a verdict depends on, as it is now; None for what is not there."""
    return {
        "history_sha256": _file_hash(outputs.history),
        "model_sha256": _file_hash(outputs.best_weights),
        "params_sha256": sha256_of_json(stage_params(params, "a800_test")),
        "gate_params_sha256": sha256_of_json(stage_params(params, "gate_psnr")),
        "dataset_sha256": dataset_hash(dataset_json),
    }


_INPUT_NAMES = {
    "history_sha256": "validation_history.json",
    "model_sha256": "the best model",
    "params_sha256": "the params of a800_test",
    "gate_params_sha256": "the params of gate_psnr",
    "dataset_sha256": "the dataset",
}


def _file_hash(path: Path) -> str | None:
    return sha256_of_file(path) if path.is_file() else None
