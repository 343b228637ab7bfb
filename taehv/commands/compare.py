"""`taehv compare`: two training runs side by side, as MLflow's comparison shows them, and whether they agree."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated, Any, get_args

import typer

from taehv.config.params import TrainingStage, load_params
from taehv.evaluation import parity
from taehv.evaluation.parity import Parity, RunRecord
from taehv.evaluation.run_records import finite
from taehv.runtime import paths
from taehv.runtime.errors import UserError

EXIT_CODES: dict[parity.ParityVerdict, int] = {"pass": 0, "warn": 0, "fail": 1, "not_comparable": 3}
"""2 is for wrong usage and wrong params."""
COLUMNS = ("psnr", "ssim", "train_loss")
"""Of the validation history."""
SHOWN = 40
"""Characters of a value."""


def compare(
    run: Annotated[str, typer.Argument(metavar="RUN_OR_STAGE", help="A training run: a stage or an MLflow run id.")],
    other: Annotated[str, typer.Argument(metavar="RUN_OR_STAGE", help="The run to hold it against.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """Two training runs: what differs, common steps, parity.

    Both are finished, and named as a stage of this directory (a800_test, h100_train) or by an MLflow run id. The
    tolerances are evaluate.parity_* of params.yaml.

    \b
    taehv compare a800_test h100_train
    taehv compare h100_train 0123456789abcdef0123456789abcdef --json

    Exit code: 0 they agree (perhaps with a warning), 1 they do not, 3 they share no step.
    """
    names = (run, other)
    rule = load_params().evaluate
    a, b = (read(name) for name in names)
    result = parity.compare_runs(a, b, rule)
    if as_json:
        print(json.dumps({"schema": 1, **dataclasses.asdict(result)}, indent=2))
    else:
        print(describe_comparison(names, a, b, result))
    return EXIT_CODES[result.verdict]


def read(name: str) -> RunRecord:
    """A stage's files, or an MLflow run."""
    if not name.strip():
        raise UserError(f"a run's name is empty: name a stage ({', '.join(get_args(TrainingStage))}) or an MLflow run")
    if name in get_args(TrainingStage):
        return parity.read_run(paths.training_outputs(name))
    from taehv.tracking.transfer.read_run import read_tracked_run  # needs mlflow

    return read_tracked_run(name)


def describe_comparison(names: Sequence[str], a: RunRecord, b: RunRecord, result: Parity) -> str:
    """The comparison as text."""
    lines = [f"a  {names[0]}", f"b  {names[1]}", ""]
    differences = [(f"{item.kind}: {item.name}", _short(item.a), _short(item.b)) for item in result.differences]
    lines += table(("what differs", "a", "b"), differences) if differences else ["nothing differs but the runs' length"]
    rows_a, rows_b = ({row["step"]: row for row in run.history} for run in (a, b))
    common = sorted(rows_a.keys() & rows_b.keys())
    if common:
        header = ("step", *(f"{name} {run}" for name in COLUMNS for run in "ab"), "delta dB")
        deltas = {step.step: step.delta for step in result.steps}
        rows = [
            (
                f"{step:,}",
                *(_number(rows[step].get(name)) for name in COLUMNS for rows in (rows_a, rows_b)),
                "" if deltas.get(step) is None else f"{deltas[step]:+.2f}",
            )
            for step in common
        ]
        lines += ["", *table(header, rows)]
    return "\n".join([*lines, "", f"parity: {result.verdict} ({result.reason})"])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns as wide as their widest cell."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _number(value: object) -> str:
    number = finite(value)
    return "-" if number is None else f"{number:.4f}"
