"""Hundreds of damaged videos through prepare_data: each is used or left out with a reason; nothing crashes or hangs."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.mutations import mutate
from support.project import REPOSITORY
from support.video_files import list_videos, numbered_frame, numbered_video, write_mp4, write_video

from taehv.data.clip_store import ClipStore
from taehv.data.sources import sample_videos
from taehv.data.splits import SPLITS

SHORT = range(10)
LONG = [range(first, first + 98) for first in range(10, 500, 98)]
SECONDS_PER_VIDEO = 20

PREPARE = """
from taehv.data.prepare import prepare
from taehv.runtime.errors import exit_with
from taehv.config.profiles import load_profile
from support.video_files import REPOSITORY, small_params
if __name__ == "__main__":
    profile = load_profile("local", REPOSITORY / "profiles").model_copy(update={"workers": 2})
    exit_with(lambda: int(not prepare(small_params(), profile)))
"""


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Small intact videos of several containers and codecs."""
    folder = tmp_path_factory.mktemp("originals")
    frames = [numbered_frame(number, 48, 64) for number in range(30)]
    others = [
        ("a.avi", "mpeg4"),
        ("a.ts", "mpeg2video"),
        ("a.webm", "libvpx"),
        ("a.mpg", "mpeg1video"),
        ("a.mov", "mjpeg"),
    ]
    made = [
        write_video(folder / name, frames, 48, 64, codec=codec, pixels="yuvj420p" if codec == "mjpeg" else "yuv420p")
        for name, codec in others
    ]
    return [
        numbered_video(folder / "a.mkv", 30),
        write_mp4(folder / "a.mp4", 30),
        write_mp4(folder / "first.mp4", 30, index_first=True),
        sample_videos()["carphone_pristine.mp4"],
        *made,
    ]


@pytest.mark.parametrize(
    "seeds",
    [pytest.param(SHORT, marks=pytest.mark.slow), *(pytest.param(seeds, marks=pytest.mark.soak) for seeds in LONG)],
)
def test_damaged_videos_are_used_or_left_out_with_a_reason(
    seeds: range, originals: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("videos").mkdir()
    numbered_video(Path("videos/intact.mkv"), 60)
    for seed in seeds:
        original = originals[seed % len(originals)]
        Path(f"videos/{seed}{original.suffix}").write_bytes(mutate(original.read_bytes(), seed))
    names = sorted(path.name for path in Path("videos").iterdir())
    list_videos(names)
    Path("run.py").write_text(PREPARE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])}
    done = subprocess.run(
        [sys.executable, "run.py"],
        capture_output=True,
        text=True,
        timeout=60 + len(seeds) * SECONDS_PER_VIDEO,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    dataset = json.loads(Path("data/dataset.json").read_text())
    with Path("data/quarantine.csv").open(encoding="utf-8") as file:
        left_out = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    stores = [ClipStore.open(Path("data/clips"), split) for split in SPLITS]
    used = {source for store in stores for source in store.sources}
    assert "intact.mkv" in used
    assert len(used) == dataset["videos"]
    assert used.isdisjoint(left_out)
    assert used | left_out.keys() == set(names)
    for store in stores:
        store.verify()
    print(f"{seeds}: {len(used) - 1} used, {len(left_out)} left out")
