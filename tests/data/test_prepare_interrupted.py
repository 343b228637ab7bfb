"""prepare_data after a kill goes on from the shards that were finished, and makes the same dataset."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.project import REPOSITORY, SUPPORT
from support.video_files import list_videos, numbered_video, small_params

from taehv.config.profiles import load_profile
from taehv.data.prepare import prepare
from taehv.runtime.failpoints import VARIABLE, Failpoint

PROFILE = load_profile("local", REPOSITORY / "profiles").model_copy(update={"workers": 1})
CODE = {"taehv/data": "0" * 64}
PROGRAM = """
from support.project import REPOSITORY
from support.video_files import small_params
from taehv.config.profiles import load_profile
from taehv.data.prepare import prepare
if __name__ == "__main__":
    profile = load_profile("local", REPOSITORY / "profiles").model_copy(update={"workers": 1})
    prepare(small_params(), profile, {"taehv/data": "0" * 64})
"""
PARTIAL = Path("data/prepare_data.partial")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(5):
        numbered_video(folder / f"{number}.mkv", 60, first=60 * number)
    return folder


@pytest.fixture
def clean(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """In a working directory with the videos: what is made of them without an interruption."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(videos, "videos")
    list_videos([f"{number}.mkv" for number in range(5)])
    prepare(small_params(), PROFILE, CODE)
    return made()


@pytest.fixture
def killed(clean: dict[str, bytes]) -> dict[str, bytes]:
    """The same, and another start that was killed when the shards of two videos were finished."""
    kill(after_shards=2)
    assert made() == clean
    return clean


def made() -> dict[str, bytes]:
    files = [*Path("data/clips").iterdir(), Path("data/dataset.json"), *Path("data/teacher").iterdir()]
    return {str(file): file.read_bytes() for file in files}


def kill(after_shards: int) -> None:
    Path("interrupted.py").write_text(PROGRAM)
    environment = os.environ | {
        VARIABLE: f"{Failpoint.SHARD}:{after_shards}:SIGKILL",
        "PYTHONPATH": os.pathsep.join([str(SUPPORT.parent), str(REPOSITORY)]),
    }
    result = subprocess.run([sys.executable, "interrupted.py"], env=environment, capture_output=True, text=True)
    assert result.returncode == -9, result.stderr


def shards_used_again(capsys: pytest.CaptureFixture[str], **arguments: Any) -> int:
    capsys.readouterr()
    prepare(small_params(**arguments.pop("params", {})), PROFILE, arguments.get("code", CODE))
    lines = [line for line in capsys.readouterr().out.splitlines() if "finished before an interruption" in line]
    assert not PARTIAL.exists()
    return int(lines[0].split()[0]) if lines else 0


def test_what_was_finished_is_used_again_and_the_dataset_is_the_same(
    killed: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert shards_used_again(capsys) == 2
    assert made() == killed


def test_it_may_be_killed_again_and_again(killed: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    kill(after_shards=1)
    kill(after_shards=1)
    assert shards_used_again(capsys) == 4
    assert made() == killed


def test_a_finished_shard_that_is_damaged_is_made_again(
    killed: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    shard = min((PARTIAL / "clips").glob("train-*.tar"))
    damaged = bytearray(shard.read_bytes())
    damaged[5000] ^= 1
    shard.write_bytes(damaged)
    assert shards_used_again(capsys) == 1
    assert made() == killed


def test_a_video_that_has_changed_meanwhile_is_cut_again(
    killed: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    numbered_video(Path("videos/0.mkv"), 60, first=7)
    list_videos([f"{number}.mkv" for number in range(5)])
    assert shards_used_again(capsys) == 1
    changed = made()
    shutil.rmtree("data/clips")
    prepare(small_params(), PROFILE, CODE)
    assert made() == changed != killed


@pytest.mark.parametrize(
    "changes", [{"params": {"store": {"codec": "lossless"}}}, {"code": {"taehv/data": "1" * 64}}, {"code": {}}]
)
def test_what_other_code_or_another_codec_has_made_is_not_used(
    killed: dict[str, bytes], changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert shards_used_again(capsys, **changes) == 0
    assert (made() == killed) == ("code" in changes)
