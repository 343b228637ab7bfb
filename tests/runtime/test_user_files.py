"""What a command reads and writes: regular files only, whatever a path leads to."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from taehv.cli import main
from taehv.data.manifest import ManifestError, read_manifest
from taehv.model.checkpoints import load_model, write_state_dict
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS
from taehv.runtime import atomic_files
from taehv.runtime.errors import UserError
from taehv.runtime.user_files import regular_file, shown
from taehv.teachers.pca import PcaTeacher, block_values

SECONDS = 20.0


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def a_test_that_waits_for_a_pipe_fails() -> Iterator[None]:
    """A reader that opens a pipe would wait for ever: a writer that comes after a while lets it go on, and wrong."""
    done = threading.Event()

    def release() -> None:
        if not done.wait(SECONDS):
            for pipe in Path.cwd().glob("pipe*"):
                os.close(os.open(pipe, os.O_RDWR))

    thread = threading.Thread(target=release, daemon=True)
    thread.start()
    yield
    done.set()
    thread.join()


@pytest.mark.parametrize("kind", ["pipe", "zero", "folder"])
@pytest.mark.parametrize(
    "command",
    [
        ["convert", "{}.pth", "out.safetensors"],
        ["convert", "{}.safetensors", "out.pth"],
        ["decode", "{}.safetensors", "out.mp4", "--model", "model.safetensors"],
        ["encode", "{}.mp4", "out.safetensors", "--model", "model.safetensors"],
        ["reconstruct", "{}.mp4", "out.mp4", "--model", "model.safetensors"],
        ["reconstruct", "sound.mp4", "out.mp4", "--model", "{}.pth"],
        ["manifest", "{}.json"],
        ["manifest", "{}.csv"],
    ],
    ids=" ".join,
)
def test_a_pipe_or_a_device_as_input_is_one_clear_error(
    here: Path, kind: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_state_dict(
        here / "model.safetensors", create_model(VARIANTS["wan2_2"], 1 / 16, "torch_default", 0).state_dict()
    )
    command = [part.format(kind) for part in command]
    [name] = [part for part in command if part.startswith(kind)]
    if kind == "pipe":
        os.mkfifo(name)
    elif kind == "zero":
        Path(name).symlink_to("/dev/zero")
    else:
        Path(name).mkdir()
        (Path(name) / "a.txt").touch()
    assert main(command) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ") and ("not a regular file" in message or kind == "folder")
    assert not Path("out.mp4").exists()


def test_a_model_folder_or_a_manifest_that_is_a_pipe_or_device_is_one_clear_error(here: Path) -> None:
    os.mkfifo("model_info.json")
    with pytest.raises(UserError, match="no usable model.*is a named pipe"):
        load_model(here)
    Path("manifest").mkdir()
    Path("manifest/videos.csv").symlink_to("/dev/zero")
    with pytest.raises(ManifestError, match="is a device, not a regular file"):
        read_manifest(Path("manifest"))


def test_names_that_no_file_can_have_are_clear_errors(here: Path) -> None:
    for name in ("a\0b", "\ud800", "x" * 5000, "absent"):
        with pytest.raises(UserError, match="there is no file|cannot be opened"):
            regular_file(Path(name))
    assert shown("a\x1b[31m\r\udcff\u00e9") == "a\\x1b[31m\\r\\udcff\u00e9"


@pytest.mark.parametrize("way", ["direct", "link"])
def test_output_never_takes_the_place_of_a_device_a_pipe_or_a_folder(here: Path, way: str) -> None:
    if os.geteuid() == 0:
        os.mknod("device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    else:
        Path("device").symlink_to("/dev/null")
    os.mkfifo("pipe")
    Path("folder").mkdir()
    for kind in ("device", "pipe", "folder"):
        before, target = Path(kind).stat(), Path(kind)
        if way == "link":
            target = Path(f"link to {kind}")
            target.symlink_to(kind)
        with pytest.raises(UserError, match=f"is a {kind if kind != 'pipe' else 'named pipe'}; output is written to"):
            atomic_files.write_text(target, "text")
        assert os.path.samestat(Path(kind).stat(), before)
        assert target.is_symlink() == (way == "link")


def test_a_manifest_that_cannot_be_written_is_one_clear_error(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert main(["manifest", "--samples", "--output", "file/manifest"]) == 1
    assert capsys.readouterr().err.startswith("error: file/manifest/videos.csv cannot be written")


def test_a_link_to_a_file_is_replaced_and_what_it_led_to_stays(here: Path) -> None:
    """As where DVC made outputs links into its cache."""
    Path("cache").write_text("old")
    Path("output").symlink_to("cache")
    atomic_files.write_text(Path("output"), "new")
    assert Path("cache").read_text() == "old" and Path("output").read_text() == "new"


def test_the_longest_names_can_be_written(here: Path) -> None:
    for name in ("x" * 255, "y" * 251 + ".csv", "\u00e9" * 125 + ".mp4"):
        atomic_files.write_text(Path(name), "1")
        assert Path(name).read_text() == "1"
    assert not list(here.glob(".*"))


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_get_the_mode_that_the_umask_gives(here: Path, umask: int) -> None:
    """safetensors alone would write 0600, which nobody else of a team can read."""
    variant = VARIANTS["wan2_2"]
    values = block_values(variant)
    teacher = PcaTeacher(variant, torch.zeros(values), torch.zeros(48, values), torch.ones(48))
    earlier = os.umask(umask)
    try:
        atomic_files.write_text(here / "text.csv", "1")
        write_state_dict(here / "a.safetensors", {"x": torch.zeros(1)})
        write_state_dict(here / "a.pth", {"x": torch.zeros(1)})
        teacher.save(here, {})
    finally:
        os.umask(earlier)
    modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in here.iterdir()}
    wanted = oct(0o666 & ~umask)
    assert modes == dict.fromkeys(["text.csv", "a.safetensors", "a.pth", "pca.safetensors", "teacher.json"], wanted)
