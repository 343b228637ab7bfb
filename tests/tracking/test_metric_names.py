"""Each video has metrics of its own, whatever its name."""

from __future__ import annotations

import itertools
import random

import pytest
from mlflow.utils.validation import _validate_metric_name

from taehv.tracking.metric_names import LONGEST_NAME, metric_name

ODD = (
    "été #1.mp4",
    "视频.mp4",
    "影片.mp4",
    "видео.mp4",
    "../outside.mp4",
    "/absolute/clip.mp4",
    "a/./b.mp4",
    "a//b",
    "a/b",
    "a/b/",
    " a/b",
    "x" * 300 + ".mp4",
    "x" * 301 + ".mp4",
    "/".join(["folder"] * 60) + "/clip.mp4",
    "/".join(["folder"] * 60) + "/Clip.mp4",
    "a\nb.mp4",
    "a\rb.mp4",
    "\udcff.mp4",
    "\udcfe.mp4",
    "名" * 255,
    "=1+1.mp4",
    "a_b.mp4",
    "a%b.mp4",
    "a:b.mp4",
    ".",
    "..",
    "",
)


def test_usual_names_stay() -> None:
    for key in ("val/psnr", "val/psnr/clips/my clip-1.mp4", "test/h100_train/round_trip/by_source/a.mp4/psnr_db"):
        assert metric_name(key) == key


@pytest.mark.parametrize("source", ODD, ids=ascii)
@pytest.mark.parametrize("place", ["val/psnr/{}", "test/h100_train/on_teacher_latents/by_source/{}/psnr_pooled_db"])
def test_any_video_has_a_name_that_mlflow_takes(place: str, source: str) -> None:
    name = metric_name(place.format(source))
    _validate_metric_name(name)
    assert len(name) <= LONGEST_NAME
    assert name.isascii()
    assert name == metric_name(place.format(source))


def test_no_two_videos_share_a_name() -> None:
    letters = ["a", "b", "/", ".", "_", "-", " ", "é", "名", ":", "0"]
    short = {"".join(word) for length in range(3) for word in itertools.product(letters, repeat=length)}
    numbers = random.Random(0)
    long = {"".join(numbers.choices(letters, k=numbers.randint(90, 400))) for _ in range(300)}
    sources = short | long | set(ODD)
    # What looks like a name that was made here is one of a kind, too.
    sources |= {metric_name(source) for source in sources} - sources
    assert len({metric_name(f"val/psnr/{source}") for source in sources}) == len(sources)


def test_a_video_has_one_name_in_all_of_its_metrics() -> None:
    name = metric_name("val/psnr/视频.mp4").removeprefix("val/psnr/")
    assert name.startswith("__.mp4-")
    assert metric_name("test/a800_test/round_trip/by_source/视频.mp4/ssim") == (
        f"test/a800_test/round_trip/by_source/{name}/ssim"
    )


def test_of_what_is_too_long_beginning_and_end_stay() -> None:
    name = metric_name("test/h100_train/round_trip/by_source/" + "long/" * 60 + "clip.mp4/psnr_db")
    assert name.startswith("test/h100_train/round_trip/by_source/long/")
    assert "clip.mp4/psnr_db-" in name
