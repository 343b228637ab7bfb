"""reports/index.html: the verdict, the numbers and the figures on one page that needs nothing from elsewhere.

What it says and how it looks is in ``templates/``; here are the numbers of its tables.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from taehv.evaluation.parity import Parity
from taehv.losses.metrics import METRICS

PARITY = {
    "pass": ("pass", "good"),
    "warn": ("warning", "warn"),
    "fail": ("fail", "bad"),
    "not_comparable": ("not comparable", "neutral"),
}
"""What a verdict is called, and its colour."""
MAX_PARITY_ROWS = 40
NUMBER = re.compile(r"-|[-+]?[0-9][0-9,]*(\.[0-9]+)?")
"""Cells that stay in one line on any screen; only words and hashes may be broken."""
RUN_ROWS = {
    "steps": "steps",
    "stopped early": "stopped_early",
    "best step": "best.step",
    "seconds": "seconds",
    "clips per second": "clips_per_second",
    "device": "device",
    "seed": "seed",
    "code (git commit)": "git_commit",
    "dataset sha256": "dataset_sha256",
    "params sha256": "params_sha256",
}
"""Of each training: title, and path in its summary.json."""

Table = tuple[Sequence[str], Iterable[Sequence[str]]]
"""Head and rows."""


@dataclass(frozen=True)
class ShownClip:
    """One test clip of the page.

    Attributes:
        title: its source and first frame.
        codec: whose reconstruction the video's right half shows.
        strip: a PNG file.
        video: an MP4 file, original left and reconstruction right.
    """

    title: str
    codec: str
    strip: bytes
    video: bytes


def render(
    evaluation: Mapping[str, Any],
    parity: Parity,
    runs: Mapping[str, Mapping[str, Any]],
    curves: bytes,
    clips: Sequence[ShownClip],
) -> str:
    """The page: one file that refers to nothing outside itself.

    Args:
        evaluation: evaluation.json.
        parity: parity.json.
        runs: summary.json of each training run.
        curves: the PNG file of the validation curves.
        clips: the test clips to show.
    """
    loader = PackageLoader("taehv.evaluation.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["PARITY"] = PARITY
    environment.filters |= {"number": _number, "data_uri": _data_uri}
    environment.tests["numeric"] = NUMBER.fullmatch
    named = _codecs(evaluation)
    return environment.get_template("page.html").render(
        evaluation=evaluation,
        parity=parity,
        curves=curves,
        clips=clips,
        absent=[name for name, measured in evaluation["lpips_measured"].items() if not measured],
        codec_table=_codec_table(named, evaluation["lpips_measured"]),
        gap_table=_gap_table(evaluation["models"]),
        source_table=_source_table(named),
        worst_table=_worst_table(named),
        parity_table=_parity_table(parity),
        difference_table=(
            ["differs in", "name", "a800_test", "h100_train"],
            [[item.kind, item.name, str(item.a), str(item.b)] for item in parity.differences],
        ),
        run_table=(
            ["", *runs],
            [[title, *(_dig(run, path) for run in runs.values())] for title, path in RUN_ROWS.items()],
        ),
    )


def _codecs(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """All that was measured, by a readable name."""
    named = {}
    for model, entry in evaluation["models"].items():
        named[f"{model}: round trip"] = entry["round_trip"]
        named[f"{model}: decoder on teacher latents"] = entry["on_teacher_latents"]
    teacher = evaluation["teacher"]
    baseline = ", the linear baseline" if teacher["is_linear_baseline"] else ""
    named[f"teacher round trip ({teacher['name']}{baseline})"] = teacher
    named["each clip's mean colour"] = evaluation["mean_colour"]
    return named


def _codec_table(named: Mapping[str, Mapping[str, Any]], lpips_measured: Mapping[str, bool]) -> Table:
    columns = [m for m in METRICS if lpips_measured.get(m.in_evaluation.removeprefix("lpips_"), True)]
    rows = [[name, *(_number(codec[m.in_evaluation], m.digits) for m in columns)] for name, codec in named.items()]
    return ["", *(metric.title for metric in columns)], rows


def _gap_table(models: Mapping[str, Any]) -> Table:
    names = next(iter(models.values()))["gaps_db"]
    rows = [
        [name.replace("_", " "), *(_number(entry["gaps_db"][name], 2) for entry in models.values())] for name in names
    ]
    return ["gap, dB", *models], rows


def _source_table(named: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = [
        [source, str(facts["clips"]), *(_number(codec["by_source"][source]["psnr_db"], 2) for codec in named.values())]
        for source, facts in next(iter(named.values()))["by_source"].items()
    ]
    return ["PSNR, dB", "clips", *named], rows


def _worst_table(named: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for name, codec in named.items():
        worst = codec["worst_clip"]
        where = f"{worst['source']}, frame {worst['first_frame']}, top {worst['top']}, left {worst['left']}"
        rows.append([name, _number(worst["psnr_db"], 2), str(worst["clip_id"]), where])
    return ["worst clip", "PSNR, dB", "clip id", "where"], rows


def _parity_table(parity: Parity) -> Table:
    every = max(1, -(-len(parity.steps) // MAX_PARITY_ROWS))
    rows = [
        [f"{step.step:,}", _number(step.a, 2), _number(step.b, 2), _number(step.delta, 2)]
        for step in parity.steps[::every]
    ]
    return ["step", "a800_test, dB", "h100_train, dB", "difference, dB"], rows


def _dig(nested: Any, path: str) -> str:
    for key in path.split("."):
        nested = nested.get(key) if isinstance(nested, Mapping) else None
    return "-" if nested is None else str(nested)


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def _data_uri(content: bytes, media_type: str) -> str:
    """The file itself as an address. MLflow shows HTML from a blob, where an address beside the page leads nowhere."""
    return f"data:{media_type};base64,{b64encode(content).decode('ascii')}"
