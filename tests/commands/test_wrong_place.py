"""Commands given in the wrong folder, with an empty name or a file of another kind say what to do, in one sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.finished_run import PARAMS_FILE
from support.project import REPOSITORY

from taehv.cli import main
from taehv.data.manifest import ManifestError, read_manifest
from taehv.runtime import atomic_files
from taehv.runtime.errors import NotWritableError, UserError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that is no repository; only params.yaml is there."""
    for name in ("MLFLOW_TRACKING_URI", "TAEHV_ROOT", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(PARAMS_FILE, tmp_path / "params.yaml")
    return tmp_path


def refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(command) != 0
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    return line


@pytest.mark.parametrize("command", [["status"], ["sync"], ["sync", "--dry-run"]])
def test_what_is_left_is_not_asked_of_any_folder(
    here: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is no checkout of this project: run it in the repository's root" in refused(["track", *command], capsys)
    (here / "dvc.yaml").touch()
    assert main(["track", *command]) == 0
    assert "nothing is left to send" in capsys.readouterr().out


def test_an_export_of_nothing_is_refused_and_makes_no_store(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing has been tracked in" in refused(["track", "export", "runs.tar"], capsys)
    assert sorted(path.name for path in here.iterdir()) == ["params.yaml"]


def test_a_text_is_no_export_in_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "README.md").write_text("# a text\n" * 200)
    assert "README.md is not a .tar file of taehv track export" in refused(["track", "import", "README.md"], capsys)


def test_an_empty_name_is_no_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "a run's name is empty: name a stage (a800_test, h100_train)" in refused(["compare", "", ""], capsys)


def test_a_store_that_is_no_database_is_one_clear_error(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "README.md").write_text("# a text\n" * 200)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///README.md")
    said = refused(["compare", "0123", "4567"], capsys)
    assert "README.md" in said and "not a database" in said
    assert (here / "README.md").read_text() == "# a text\n" * 200


@pytest.mark.parametrize(
    ("folder", "arguments", "said"),
    [("docs", [], "run it in the repository's root"), (".", ["--profile", ""], "must be one of a800, h100")],
)
def test_the_launcher_starts_nothing_in_a_subfolder_or_for_an_empty_profile(
    folder: str, arguments: list[str], said: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "taehv.launch", *arguments]
    result = subprocess.run(command, cwd=REPOSITORY / folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert said in result.stderr and "Traceback" not in result.stderr


def test_one_bad_line_is_one(here: Path) -> None:
    (here / "manifest").mkdir()
    (here / "manifest/videos.csv").write_text("path,bytes,sha256\nx\n")
    with pytest.raises(ManifestError, match="has 1 bad line;"):
        read_manifest(here / "manifest")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("params.yaml/x.json", "Not a directory|File exists"),
        ("params.yaml/x/y.json", "Not a directory"),
        (f"{'x' * 300}/y.json", "File name too long"),
    ],
)
def test_a_place_where_no_file_can_be_is_named_once_for_all(here: Path, target: str, reason: str) -> None:
    with pytest.raises(NotWritableError, match=f"cannot be written: ({reason}); choose another place"):
        atomic_files.write_json(Path(target), {})


@pytest.mark.parametrize("error", [PermissionError(13, "x"), OSError(30, "x"), IsADirectoryError(21, "x")])
def test_what_a_read_only_disk_says_is_the_users_to_fix(
    here: Path, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise type(error)(error.errno, error.strerror, str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=rf"out/x.json cannot be written: {os.strerror(error.errno or 0)}"):
        atomic_files.write_json(Path("out/x.json"), {})


def test_an_input_that_cannot_be_read_meanwhile_is_not_taken_for_the_output(here: Path) -> None:
    with pytest.raises(PermissionError), atomic_files.replacing(Path("out.json")):
        raise PermissionError(13, "Permission denied", str(here / "input.json"))
