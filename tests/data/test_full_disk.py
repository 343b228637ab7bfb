"""A disk that fills up while something is written: one clear line, nothing half written, and the next run is fine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.clip_stores import fit_small_teacher, write_test_store
from support.finished_run import FinishedRun, make_params
from support.full_disk import needs_small_disks, run_on_small_disk
from support.project import REPOSITORY
from support.video_files import numbered_video, write_mp4

from taehv.cli import main
from taehv.model.checkpoints import write_state_dict
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS

pytestmark = pytest.mark.slow

START = f"import sys; sys.path[:0] = {[str(REPOSITORY), str(REPOSITORY / 'tests')]!r}\n"

PREPARE = """
from pathlib import Path
from taehv.data import prepare as module
from taehv.runtime.errors import exit_with
from taehv.config.profiles import load_profile
from support.project import REPOSITORY
from support.video_files import list_videos, small_params
if __name__ == "__main__":
    module._DISK_MARGIN_BYTES = -(2 ** 40)  # the disk is filled by someone else after the check
    profile = load_profile("local", REPOSITORY / "profiles").model_copy(update={"workers": 1})
    exit_with(lambda: int(not module.prepare(small_params(), profile)))
"""
OLD = ("clips/index.arrow", "teacher/teacher.json", "dataset.json")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a video and a manifest; the programs find it as their working directory."""
    needs_small_disks()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    (tmp_path / "data").mkdir()
    numbered_video(tmp_path / "videos/a.mkv", 60)
    program = START + PREPARE.replace(
        'if __name__ == "__main__":', 'list_videos(["a.mkv"])\nif __name__ == "__main__":'
    )
    (tmp_path / "first.py").write_text(program)
    (tmp_path / "again.py").write_text(START + PREPARE)
    return tmp_path


@pytest.mark.parametrize(
    "limit",
    ["nr_inodes=19", "size=200k"]
    + [
        pytest.param(limit, marks=pytest.mark.soak)
        for limit in ("nr_inodes=18", "nr_inodes=21", "nr_inodes=23", "size=8k")
    ],
)
def test_a_disk_that_fills_up_in_prepare_data_leaves_the_old_dataset_as_it_was(project: Path, limit: str) -> None:
    """The files of the first run take 14 entries; the second run is stopped by each of its first ones in turn."""
    run = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
    python = f"{sys.executable} -W ignore"
    room = limit if limit.startswith("nr_") else "size=64m"
    fill = "true"
    if limit.startswith("size="):
        kib = int(limit.removeprefix("size=").removesuffix("k"))
        fill = f"free=$(df --output=avail -k data | tail -1); head -c $(((free - {kib}) * 1024)) /dev/zero > data/other"
    sums = "(cd data && find clips teacher dataset.json -type f | sort | xargs sha256sum)"
    done = run_on_small_disk(
        project / "data",
        "size=64m",
        run,
        "again.py",
        before=f"{python} first.py >/dev/null 2>&1 && {sums} > before.txt && "
        f"{{ [ {room} = size=64m ] || mount -o remount,{room} data; }} && {fill}",
        after=f"{sums} > after.txt; ls -A data; rm -f data/other; mount -o remount,nr_inodes=10000 data; "
        f"{python} again.py >again.txt 2>&1; echo again $?",
    )
    assert done.returncode == 1, done.stdout + done.stderr
    message = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(message) == 1
    assert "could not be written: the disk (or your quota) is full" in message[0]
    assert " free in " in message[0] and "Free some space there" in message[0]
    assert "Traceback" not in done.stderr
    assert "partial" not in done.stdout
    assert Path("before.txt").read_text().count("\n") >= len(OLD)
    assert Path("before.txt").read_text() == Path("after.txt").read_text()
    assert "again 0" in done.stdout, Path("again.txt").read_text()


COMMAND = "from taehv.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize(
    ("command", "source", "target"),
    [
        ("reconstruct", "in.mp4", "out.mp4"),
        ("encode", "in.mp4", "z.safetensors"),
        ("decode", "z.safetensors", "out.mp4"),
        ("convert", "model.safetensors", "model.pth"),
        ("convert", "model.safetensors", "copy.safetensors"),
    ],
)
def test_a_command_whose_output_does_not_fit_says_so_and_keeps_the_file_that_was_there(
    tmp_path: Path, command: str, source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_small_disks()
    monkeypatch.chdir(tmp_path)
    model = create_model(VARIANTS["wan2_2"], 1 / 16, "torch_default", seed=0)
    write_state_dict(tmp_path / "model.safetensors", model.state_dict())
    write_mp4(tmp_path / "in.mp4", 8, 128, 128)
    (tmp_path / "full").mkdir()
    options = [] if command == "convert" else ["--model", "model.safetensors"]
    if command == "decode":
        assert main(["encode", "in.mp4", "z.safetensors", *options]) == 0
    done = run_on_small_disk(
        tmp_path / "full",
        "size=4k",  # one page, which the earlier file fills
        START + COMMAND,
        command,
        source,
        f"full/{target}",
        *options,
        before=f"echo earlier > full/{target}",
        after=f"ls -A full; cat full/{target}",
    )
    assert done.returncode == 1, done.stderr
    assert f"error: full/{target} could not be written: the disk (or your quota) is full, " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.split() == [target, "earlier"]


REPORT = """
from pathlib import Path
import stages.evaluate as stage
from taehv.data.clip_store import ClipStore
from taehv.runtime import paths
from support.finished_run import PARAMS_FILE, make_params
from taehv.runtime.errors import exit_with
from taehv.config.profiles import load_profile
profile = load_profile("local", PARAMS_FILE.parent / "profiles")
exit_with(lambda: int(not stage.measure(make_params(), profile, ClipStore.open(paths.CLIPS, "test"))))
"""


@pytest.mark.parametrize(
    "limit",
    ["size=40k", "nr_inodes=3"]
    + [pytest.param(limit, marks=pytest.mark.soak) for limit in ("size=4k", "size=120k", "nr_inodes=6")],
)
def test_a_report_that_does_not_fit_says_so(tmp_path: Path, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_small_disks()
    monkeypatch.chdir(tmp_path)
    write_test_store(tmp_path / "data/clips")
    fit_small_teacher(tmp_path / "data/teacher")
    FinishedRun(tmp_path, make_params(), "a800_test")
    FinishedRun(tmp_path, make_params(), "h100_train").dataset_json.unlink()  # it describes other clips
    (tmp_path / "reports").mkdir()
    done = run_on_small_disk(tmp_path / "reports", limit, START + REPORT)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "error: reports/" in done.stderr and "the disk (or your quota) is full" in done.stderr
    assert "Traceback" not in done.stderr


def test_dev_full_is_named_by_the_error(tmp_path: Path) -> None:
    """Any write of any stage, also one that nothing prepared for, ends as one line."""
    program = "from taehv.runtime.errors import exit_with; exit_with(lambda: open('/dev/full', 'wb', 0).write(b'x'))"
    done = subprocess.run([sys.executable, "-c", START + program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: a file could not be written: the disk (or your quota) is full")
    assert len(done.stderr.splitlines()) == 1
