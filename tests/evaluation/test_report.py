"""The figures, videos and page of the report."""

from __future__ import annotations

import base64
import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from support.clip_stores import write_test_store
from support.finished_run import GOOD_HISTORY, history_row, make_params

from taehv.evaluation.parity import Difference, Parity, RunRecord, StepDelta
from taehv.evaluation.report.build import GAP, write_report, write_side_by_side
from taehv.evaluation.report.examples import MAX_EXAMPLES, Example, make_examples
from taehv.evaluation.report.figures import BAND_STEPS, CURVES, series, write_curves, write_strip
from taehv.evaluation.report.html import ShownClip, render
from taehv.evaluation.test_set import mean_colour
from taehv.runtime import atomic_files

CPU = torch.device("cpu")
GATE = make_params().gate


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Both sources of a small store, decoded by an exact codec and by mean colour."""
    store = write_test_store(tmp_path_factory.mktemp("clips"))
    return make_examples(store, {"exact": lambda frames: frames, "mean colour": mean_colour(9)}, CPU)


@pytest.mark.parametrize("source", ["folder/" * 40 + "a" * 240 + ".mp4", "视频" * 60])
def test_a_source_of_any_name_has_files_of_its_own_that_every_file_system_takes(
    examples: list[Example], source: str, tmp_path: Path
) -> None:
    named = [
        dataclasses.replace(example, record=dataclasses.replace(example.record, source=source)) for example in examples
    ]
    assert len({example.file_stem for example in named}) == len(named)
    for example in named:
        write_strip(example, tmp_path / f"{example.file_stem}.png")
        write_side_by_side(example, "exact", tmp_path / f"{example.file_stem}.mp4")
    assert len(list(tmp_path.iterdir())) == 2 * len(named)


@pytest.mark.parametrize("name", ["a" * 251 + ".mp4", "长" * 83 + ".mp4", "x." + "y" * 253])
def test_a_file_may_have_the_longest_name_that_the_file_system_takes(name: str, tmp_path: Path) -> None:
    atomic_files.write_text(tmp_path / name, "whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]


class TestExamples:
    def test_the_first_clip_of_each_source_is_shown_on_the_frames_all_share(self, examples: list[Example]) -> None:
        assert [example.record.clip_id for example in examples] == [0, 2]
        assert {example.original.shape for example in examples} == {(9, 32, 32, 3)}
        assert examples[0].decoded["exact"].psnr_db == 100.0
        assert np.array_equal(examples[0].decoded["exact"].video, examples[0].original)

    def test_of_many_sources_a_few_are_shown(self, tmp_path: Path) -> None:
        store = write_test_store(tmp_path, tuple(f"{number:02d}.mp4" for number in range(20)), clips_per_source=1)
        shown = make_examples(store, {"exact": lambda frames: frames}, CPU)
        assert 4 <= len(shown) <= MAX_EXAMPLES

    def test_what_is_not_a_number_is_shown_black(self, tmp_path: Path) -> None:
        store = write_test_store(tmp_path, ("a.mp4",), clips_per_source=1)
        (example,) = make_examples(store, {"broken": lambda frames: frames * torch.nan}, CPU)
        assert not example.decoded["broken"].video.any()


class TestCurves:
    def test_the_bands_are_the_guides(self) -> None:
        assert BAND_STEPS == (100, 1_000, 5_000, 10_000, 50_000)
        assert [curve.key for curve in CURVES] == ["psnr", "ssim", "lpips"]
        assert [curve.band[1] for curve in CURVES] == [(25, 28), (0.85, 0.90), (0.10, 0.15)]
        assert [curve.band[-1] for curve in CURVES] == [(29, 32), (0.92, 0.95), (0.05, 0.08)]

    def test_step_0_and_unmeasured_values_are_left_out(self) -> None:
        rows = [history_row(0, 9.0), history_row(250, None), history_row(500, float("nan")), history_row(750, 25.0)]
        assert series(rows, "psnr") == [(750, 25.0)]
        assert series(rows, "lpips") == []

    def test_a_panel_is_drawn_for_what_was_measured(self, tmp_path: Path) -> None:
        with_lpips = [{**row, "lpips": 0.2} for row in GOOD_HISTORY]
        write_curves({"a800_test": GOOD_HISTORY, "h100_train": GOOD_HISTORY}, GATE, tmp_path / "two.png")
        write_curves({"a800_test": GOOD_HISTORY, "h100_train": with_lpips}, GATE, tmp_path / "three.png")
        two, three = imread(tmp_path / "two.png"), imread(tmp_path / "three.png")
        assert three.shape[1] > 1.3 * two.shape[1]

    def test_runs_without_any_validation_still_give_a_figure(self, tmp_path: Path) -> None:
        write_curves({"a800_test": [], "h100_train": [history_row(0, 9.0)]}, GATE, tmp_path / "curves.png")
        assert imread(tmp_path / "curves.png").std() > 0


class TestFigures:
    def test_the_same_clip_gives_the_same_file(self, examples: list[Example], tmp_path: Path) -> None:
        for attempt in ("first", "second"):
            write_strip(examples[0], tmp_path / f"{attempt}.png")
            write_side_by_side(examples[0], "mean colour", tmp_path / f"{attempt}.mp4")
        for suffix in ("png", "mp4"):
            first, second = (tmp_path / f"{attempt}.{suffix}" for attempt in ("first", "second"))
            assert first.read_bytes() == second.read_bytes()

    def test_the_video_shows_the_original_left_and_the_reconstruction_right(
        self, examples: list[Example], tmp_path: Path
    ) -> None:
        example, path = examples[0], tmp_path / "video.mp4"
        write_side_by_side(example, "mean colour", path)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert len(frames) == 9
        assert frames[0].shape == (320, 320 + GAP + 320, 3)
        left, right = frames[4][:, :320], frames[4][:, -320:]
        original = example.original[4].repeat(10, axis=0).repeat(10, axis=1)
        assert np.abs(left.astype(int) - original).mean() < 6
        assert np.abs(right.astype(int) - original).mean() > 20


def codec_numbers(psnr: float) -> dict[str, Any]:
    numbers = {"psnr_db": psnr, "psnr_pooled_db": psnr, "ssim": 0.9, "lpips_alex": None, "lpips_vgg": None}
    worst = {"psnr_db": psnr, "clip_id": 1, "source": "<b>.mp4", "first_frame": 5, "top": 0, "left": 0}
    return {**numbers, "by_source": {"<b>.mp4": {"clips": 2, **numbers}}, "worst_clip": worst}


GAPS = {"teacher_minus_round_trip": 3.0, "round_trip_minus_on_teacher_latents": None}
MODEL = {"round_trip": codec_numbers(27.5), "on_teacher_latents": codec_numbers(26.5), "gaps_db": GAPS}
EVALUATION: dict[str, Any] = {
    "passed": False,
    "reasons": ["test PSNR of the h100_train model is 27.50 dB, must be > 28 dB"],
    "final_psnr": {"value": 27.5, "limit": 28.0, "passed": False},
    "test_set": {"clips": 2, "sources": 1, "frames_compared": 9, "height": 64, "width": 64},
    "lpips_measured": {"alex": False, "vgg": False},
    "models": {"a800_test": MODEL, "h100_train": MODEL},
    "teacher": {"name": "pca", "is_linear_baseline": True, **codec_numbers(30.9)},
    "mean_colour": codec_numbers(17.2),
}
PARITY = Parity(
    "warn",
    "largest difference 0.70 dB, above 0.5 dB",
    0.7,
    (StepDelta(250, 22.0, 22.7, 0.7),),
    (Difference("params", "loss.recon", 10.0, "<20>"),),
)


RUN = {"steps": 1000, "best": {"step": 1000}, "device": "cpu", "git_commit": "c0ffee" * 7, "dataset_sha256": "a1" * 32}
RUNS = {"a800_test": RUN, "h100_train": RUN}


class Page(HTMLParser):
    """What a browser would find in the page: tags, where they lead, and the text of each table cell."""

    LEADS_ELSEWHERE = ("src", "srcset", "href", "poster", "data", "action", "background", "style")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: dict[str, list[str]] = {}
        self.numbers: list[str] = []
        self._in_number = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in_number = ("class", "number") in attrs
        for name, value in attrs:
            if name in self.LEADS_ELSEWHERE:
                self.addresses.setdefault(tag, []).append(value or "")

    def handle_data(self, data: str) -> None:
        if self._in_number:
            self.numbers.append(data)
            self._in_number = False


def embedded(address: str) -> tuple[str, bytes]:
    """The media type and content of a data URI."""
    match = re.fullmatch(r"data:([a-z0-9/]+);base64,([A-Za-z0-9+/=]+)", address)
    assert match, f"leads elsewhere: {address[:80]}"
    return match[1], base64.b64decode(match[2], validate=True)


@pytest.fixture(scope="module")
def report(examples: list[Example], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a whole report was written to."""
    folder = tmp_path_factory.mktemp("reports")
    record = RunRecord(params={}, history=tuple(GOOD_HISTORY), summary=RUN)
    write_report(folder, EVALUATION, PARITY, dict.fromkeys(RUNS, record), examples, GATE)
    return folder


class TestOneFile:
    """The page can be sent as it is, and MLflow, which shows HTML from a blob, shows all of it."""

    def test_every_figure_and_video_is_in_the_page(self, report: Path, examples: list[Example]) -> None:
        page = Page((report / "index.html").read_text(encoding="utf-8"))
        assert set(page.addresses) == {"img", "video"}
        figures = [embedded(address) for address in page.addresses["img"]]
        videos = [embedded(address) for address in page.addresses["video"]]
        stems = [example.file_stem for example in examples]
        assert figures == [("image/png", (report / f"figures/{name}.png").read_bytes()) for name in ("curves", *stems)]
        assert videos == [("video/mp4", (report / f"videos/{stem}.mp4").read_bytes()) for stem in stems]

    def test_nothing_in_it_can_load_or_run_anything(self, report: Path) -> None:
        text = (report / "index.html").read_text(encoding="utf-8")
        assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(Page(text).tags)
        style = text.partition("<style>")[2].partition("</style>")[0]
        assert "url(" not in style and "@import" not in style
        assert "http-equiv" not in text


class TestPage:
    @pytest.fixture
    def page(self) -> str:
        return render(EVALUATION, PARITY, RUNS, b"png", [ShownClip("<b>.mp4, from frame 0", "<i>", b"strip", b"mp4")])

    def test_numbers_stay_in_one_line_on_a_phone(self, page: str) -> None:
        style = page.partition("<style>")[2].partition("</style>")[0]
        rule = re.search(r"td\.number \{([^}]*)\}", style)
        assert rule is not None and "white-space: nowrap" in rule[1]
        numbers = Page(page).numbers
        for number in ("27.50", "17.20", "0.9000", "0.70", "1000", "250", "-"):
            assert number in numbers
        assert not [text for text in numbers if re.search("[a-z]", text)]  # a hash may be broken

    def test_no_column_is_wider_than_a_phone(self, page: str) -> None:
        """390 px less the margins; what is wider must be bounded by the space that there is, or scroll in its box."""
        style = page.partition("<style>")[2].partition("</style>")[0]
        assert [int(width) for width in re.findall(r"minmax\((\d+)px", style) if int(width) > 320] == []
        assert page.count("<table>") == page.count('<div class="scroll"><table>') > 0
        assert page.count("<img") == page.count('<div class="scroll"><img') == 2

    def test_it_says_verdict_reason_and_numbers(self, page: str) -> None:
        for said in ("failed", "must be &gt; 28 dB", "27.50", "30.90", "17.20", "linear baseline", "warning", "0.70"):
            assert said in page

    def test_an_unmeasured_metric_is_said_once_and_has_no_column(self, page: str) -> None:
        assert page.count("LPIPS") == 1
        assert "LPIPS (alex, vgg) is absent" in page

    def test_names_cannot_break_the_page(self, page: str) -> None:
        assert "<b>" not in page and "<i>" not in page
        assert "&lt;b&gt;.mp4" in page
        assert "<20>" not in page

    def test_a_name_that_is_a_program_is_shown_and_not_run(self) -> None:
        """In every place that a stranger's name reaches: text, cells, captions, and an attribute."""
        name = "<script>alert(1)</script>\" onload='alert(2)'.mp4"
        numbers = codec_numbers(27.5) | {"by_source": {name: {"clips": 1, **codec_numbers(27.5)}}}
        numbers["worst_clip"] = codec_numbers(27.5)["worst_clip"] | {"source": name}
        evaluation = EVALUATION | {"mean_colour": numbers, "reasons": [name]}
        evaluation["models"] = {name: MODEL | {"round_trip": numbers, "on_teacher_latents": numbers}}
        evaluation["teacher"] = {"name": name, "is_linear_baseline": False, **numbers}
        parity = dataclasses.replace(PARITY, reason=name, differences=(Difference("params", name, name, name),))
        page = render(evaluation, parity, {name: {**RUN, "device": name}}, b"png", [ShownClip(name, name, b"1", b"2")])
        assert "script" not in Page(page).tags and "<script" not in page
        assert '" onload' not in page
        assert page.count("&lt;script&gt;") >= 14
