"""What is written as video: colours as meant and tagged, times as given, files of exactly that name.

The files are read with FFmpeg's demuxer and decoder, and their colours computed here, from the planes and BT.709's own
constants, not by the scaler that wrote them.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from support.clip_stores import write_test_store
from support.video_stream import planes_as_rgb, tags_of

from taehv.data.variable_rate import VariableRate
from taehv.data.video_files import VideoWriteError, write_video
from taehv.evaluation.report.build import write_side_by_side
from taehv.evaluation.report.examples import make_examples

COLOURS = [(200, 40, 40), (38, 180, 36), (40, 60, 200), (220, 200, 30), (255, 255, 255), (0, 0, 0), (128, 128, 128)]


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.time or 0) for frame in container.decode(video=0)]


@pytest.mark.parametrize(("height", "width"), [(48, 64), (33, 51), (144, 192), (720, 1280)])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_colours_are_bt709_and_say_so_at_every_size(tmp_path: Path, suffix: str, height: int, width: int) -> None:
    path = tmp_path / f"out{suffix}"
    for colour in COLOURS if height < 720 and suffix == ".mp4" else COLOURS[1:2]:
        with write_video(path, Fraction(25), height, width) as writer:
            writer.write(np.broadcast_to(np.array(colour, dtype=np.uint8), (2, height, width, 3)))
        assert tags_of(path) == {(1, 1, 1, 1)}
        assert np.abs(planes_as_rgb(path) - colour).max() < 2, colour


def test_the_reports_videos_have_the_same_colours_and_tags_and_the_same_bytes_again(tmp_path: Path) -> None:
    store = write_test_store(tmp_path / "clips")
    example = make_examples(store, {"exact": lambda frames: frames}, torch.device("cpu"))[0]
    example.original[:] = COLOURS[1]
    for name in ("a.mp4", "b.mp4"):
        write_side_by_side(example, "exact", tmp_path / name)
    assert tags_of(tmp_path / "a.mp4") == {(1, 1, 1, 1)}
    assert np.abs(planes_as_rgb(tmp_path / "a.mp4")[:, :300] - COLOURS[1]).max() < 4
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(
    ("ticks", "clock"),
    [
        ([0, 40, 80, 200, 210, 211, 700, 1400, 2320, 2360], Fraction(1, 1000)),
        ([0, 330_462, 661_211, 9_919_050, 10_319_050], Fraction(1, 10_000_000)),
        ([0, 1, 2, 4, 5], Fraction(1, 25)),
        ([0, 5_000_000, 6 * 10**9, 6 * 10**9 + 40_000_000], Fraction(1, 10**9)),
        ([0, 1001], Fraction(1, 30_000)),
    ],
)
def test_each_frame_is_shown_at_its_own_time(tmp_path: Path, suffix: str, ticks: list[int], clock: Fraction) -> None:
    path = tmp_path / f"out{suffix}"
    with write_video(path, VariableRate(clock, np.array(ticks)), 48, 64) as writer:
        for number in range(len(ticks) - 1):
            writer.write(np.full((1, 48, 64, 3), 9 * number, np.uint8))
    assert times_of(path) == pytest.approx([float(tick * clock) for tick in ticks[:-1]], abs=0.0011)
    with av.open(str(path)) as container:
        assert container.duration is not None
        assert container.duration / 1e6 == pytest.approx(float(ticks[-1] * clock), abs=0.0021)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    "rate", ["1/10000", "24", "30000/1001", "1000", "1210000000/40382431", "2147483647/2147483646"]
)
def test_any_usual_rate_and_stranger_ones_can_be_written(tmp_path: Path, suffix: str, rate: str) -> None:
    path = tmp_path / f"out{suffix}"
    with write_video(path, Fraction(rate), 48, 64) as writer:
        writer.write(np.zeros((3, 48, 64, 3), np.uint8))
    assert times_of(path) == pytest.approx([float(number / Fraction(rate)) for number in range(3)], abs=0.0011)


@pytest.mark.parametrize(("rate", "suffix"), [("1/10001", ".mp4"), ("90001", ".mov"), ("1001", ".mkv")])
def test_a_rate_that_no_file_can_say_is_one_clear_error(tmp_path: Path, rate: str, suffix: str) -> None:
    with (
        pytest.raises(VideoWriteError, match="frames per second cannot be written, 1/10000 to"),
        write_video(tmp_path / f"out{suffix}", Fraction(rate), 48, 64),
    ):
        pass


@pytest.mark.parametrize(
    "name", ["file:x.mp4", "a:b.mp4", "http:x.mp4", "pipe:1.mp4", "%03d.mp4", "\u00e9 x.mp4", "-.mp4"]
)
def test_a_name_is_the_name_of_a_file_whatever_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.mp4").write_text("another file")
    with write_video(Path(name), Fraction(25), 48, 64) as writer:
        writer.write(np.zeros((2, 48, 64, 3), np.uint8))
    assert {path.name for path in tmp_path.iterdir()} == {"x.mp4", name}
    assert Path("x.mp4").read_text() == "another file"
    assert len(times_of(tmp_path / name)) == 2
