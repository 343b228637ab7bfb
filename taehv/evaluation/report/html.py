"""reports/index.html: the verdict, the numbers and the pictures on one page that needs nothing from elsewhere."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from taehv.evaluation.parity import Parity

CODEC_COLUMNS = (
    ("psnr_db", "PSNR, dB", 2),
    ("psnr_pooled_db", "pooled PSNR, dB", 2),
    ("ssim", "SSIM", 4),
    ("lpips_alex", "LPIPS (AlexNet)", 4),
    ("lpips_vgg", "LPIPS (VGG)", 4),
)
PARITY_WORDS = {"pass": "pass", "warn": "warning", "fail": "fail", "not_comparable": "not comparable"}
MAX_PARITY_ROWS = 40
NUMBER = re.compile(r"-|[-+]?[0-9][0-9,]*(\.[0-9]+)?")
Named = list[tuple[str, Mapping[str, Any]]]


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
    style = files("taehv.report").joinpath("report.css").read_text(encoding="utf-8")
    body = "\n".join(
        [
            _header(evaluation, parity),
            _section("Test clips", _codec_table(evaluation), _gap_table(evaluation), _test_note(evaluation)),
            _section("By source", _source_table(evaluation), _worst_table(evaluation)),
            _section("Validation while training", _image(curves, "validation curves"), _CURVE_NOTE),
            _section("Parity of the two runs", _parity_text(parity), _parity_table(parity), _difference_table(parity)),
            _section("Reconstructions", _PICTURE_NOTE, *(_strip(clip) for clip in clips), _videos(clips)),
            _section("Runs", _run_table(runs)),
        ]
    )
    return _PAGE.format(style=style, body=body)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TAEHV training report</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_CURVE_NOTE = (
    '<p class="note">PSNR and SSIM of the averaged weights on the validation clips. The bands are what the training '
    "guide expects of the full scale (480x720 pixels, the whole model); other scales need not follow them.</p>"
)
_PICTURE_NOTE = '<p class="note">The first test clip of each source. Videos play slowed down.</p>'


def _header(evaluation: Mapping[str, Any], parity: Parity) -> str:
    final = evaluation["final_psnr"]
    passed = evaluation["passed"]
    cards = [
        _card("Verdict", "passed" if passed else "failed", "good" if passed else "bad"),
        _card(
            f"Test PSNR, must be > {final['limit']:g} dB",
            _number(final["value"], 2, " dB"),
            "good" if final["passed"] else "bad",
        ),
        _card("Parity", PARITY_WORDS[parity.verdict], _PARITY_TONES[parity.verdict]),
        _card("Largest PSNR difference", _number(parity.max_abs_delta_db, 2, " dB"), _PARITY_TONES[parity.verdict]),
    ]
    reasons = "".join(f'<p class="reason">{escape(reason)}</p>' for reason in evaluation["reasons"])
    return f'<h1>TAEHV training report</h1>\n<div class="cards">{"".join(cards)}</div>\n{reasons}'


_PARITY_TONES = {"pass": "good", "warn": "warn", "fail": "bad", "not_comparable": "neutral"}


def _card(title: str, value: str, tone: str) -> str:
    return f'<div class="card {tone}"><span>{escape(title)}</span><strong>{escape(value)}</strong></div>'


def _codecs(evaluation: Mapping[str, Any]) -> Named:
    """All that was measured, by a readable name."""
    named: Named = []
    for model, entry in evaluation["models"].items():
        named.append((f"{model}: round trip", entry["round_trip"]))
        named.append((f"{model}: decoder on teacher latents", entry["on_teacher_latents"]))
    teacher = evaluation["teacher"]
    baseline = ", the linear baseline" if teacher["is_linear_baseline"] else ""
    named.append((f"teacher round trip ({teacher['name']}{baseline})", teacher))
    named.append(("each clip's mean colour", evaluation["mean_colour"]))
    return named


def _codec_table(evaluation: Mapping[str, Any]) -> str:
    measured = evaluation["lpips_measured"]
    columns = [column for column in CODEC_COLUMNS if measured.get(column[0].removeprefix("lpips_"), True)]
    rows = [[name, *(_number(codec[key], digits) for key, _, digits in columns)] for name, codec in _codecs(evaluation)]
    return _table(["", *(title for _, title, _ in columns)], rows)


def _gap_table(evaluation: Mapping[str, Any]) -> str:
    models = evaluation["models"]
    names = next(iter(models.values()))["gaps_db"]
    rows = [
        [name.replace("_", " "), *(_number(entry["gaps_db"][name], 2) for entry in models.values())] for name in names
    ]
    return _table(["gap, dB", *models], rows)


def _test_note(evaluation: Mapping[str, Any]) -> str:
    test = evaluation["test_set"]
    absent = [name for name, measured in evaluation["lpips_measured"].items() if not measured]
    without = f" LPIPS ({', '.join(absent)}) is absent: its backbone weights are not on this machine." if absent else ""
    text = (
        f"{test['clips']} clips of {test['sources']} source(s), {test['width']}x{test['height']} pixels; the first "
        f"{test['frames_compared']} frames of each are compared.{without}"
    )
    return f'<p class="note">{escape(text)}</p>'


def _source_table(evaluation: Mapping[str, Any]) -> str:
    named = _codecs(evaluation)
    sources = list(named[0][1]["by_source"])
    rows = [
        [source, str(named[0][1]["by_source"][source]["clips"])]
        + [_number(codec["by_source"][source]["psnr_db"], 2) for _, codec in named]
        for source in sources
    ]
    return _table(["PSNR, dB", "clips", *(name for name, _ in named)], rows)


def _worst_table(evaluation: Mapping[str, Any]) -> str:
    rows = []
    for name, codec in _codecs(evaluation):
        worst = codec["worst_clip"]
        where = f"{worst['source']}, frame {worst['first_frame']}, top {worst['top']}, left {worst['left']}"
        rows.append([name, _number(worst["psnr_db"], 2), str(worst["clip_id"]), where])
    return _table(["worst clip", "PSNR, dB", "clip id", "where"], rows)


def _parity_text(parity: Parity) -> str:
    return f"<p>{escape(PARITY_WORDS[parity.verdict].capitalize())}: {escape(parity.reason)}.</p>"


def _parity_table(parity: Parity) -> str:
    every = max(1, -(-len(parity.steps) // MAX_PARITY_ROWS))
    rows = [
        [f"{step.step:,}", _number(step.a, 2), _number(step.b, 2), _number(step.delta, 2)]
        for step in parity.steps[::every]
    ]
    return _table(["step", "a800_test, dB", "h100_train, dB", "difference, dB"], rows)


def _difference_table(parity: Parity) -> str:
    if not parity.differences:
        return '<p class="note">Seed, data, params, code, hardware and processes were the same.</p>'
    rows = [[item.kind, item.name, str(item.a), str(item.b)] for item in parity.differences]
    return _table(["differs in", "name", "a800_test", "h100_train"], rows)


def _run_table(runs: Mapping[str, Mapping[str, Any]]) -> str:
    def row(title: str, *path: str) -> list[str]:
        return [title, *(str(_dig(metrics, path)) for metrics in runs.values())]

    rows = [
        row("steps", "steps"),
        row("stopped early", "stopped_early"),
        row("best step", "best", "step"),
        row("seconds", "seconds"),
        row("clips per second", "clips_per_second"),
        row("device", "device"),
        row("seed", "seed"),
        row("code (git commit)", "git_commit"),
        row("dataset sha256", "dataset_sha256"),
        row("params sha256", "params_sha256"),
    ]
    return _table(["", *runs], rows)


def _dig(nested: Any, path: Iterable[str]) -> Any:
    for key in path:
        nested = nested.get(key) if isinstance(nested, Mapping) else None
    return "-" if nested is None else nested


def _strip(clip: ShownClip) -> str:
    return _figure(clip.title, _image(clip.strip, f"{clip.title}: frames, reconstructions and their errors"))


def _videos(clips: Sequence[ShownClip]) -> str:
    players = (
        _figure(
            f"{clip.title}: original left, {clip.codec} right",
            f'<video src="{_data_uri("video/mp4", clip.video)}" autoplay loop muted playsinline controls></video>',
        )
        for clip in clips
    )
    return f'<div class="videos">{"".join(players)}</div>'


def _figure(caption: str, content: str) -> str:
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def _section(title: str, *parts: str) -> str:
    content = "\n".join(parts)
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def _image(png: bytes, alt: str) -> str:
    return f'<div class="scroll"><img src="{_data_uri("image/png", png)}" alt="{escape(alt)}"></div>'


def _data_uri(media_type: str, content: bytes) -> str:
    """The file itself as an address. MLflow shows HTML from a blob, where an address beside the page leads nowhere."""
    return f"data:{media_type};base64,{b64encode(content).decode('ascii')}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows]
    return '<div class="scroll"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _cell(text: str) -> str:
    """Numbers stay in one line on any screen; only words and hashes may be broken."""
    kind = ' class="number"' if NUMBER.fullmatch(text) else ""
    return f"<td{kind}>{escape(text)}</td>"


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"
