"""The ``taehv`` command as a whole: help, versions, wrong usage, completion, and any file's name."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.project import REPOSITORY

from taehv import __version__
from taehv.cli import main
from taehv.runtime.user_files import shown

COMMANDS = ["manifest", "reconstruct", "encode", "decode", "convert", "compare", "doctor"]
ACTIONS = ["status", "sync", "export", "import", "relocate"]
EVERY_HELP = [[], *([name] for name in COMMANDS), ["track"], *(["track", name] for name in ACTIONS)]


def ended(command: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.mark.parametrize("command", EVERY_HELP, ids=" ".join)
def test_help_fits_80_columns_and_tells_the_exit_codes(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert ended([*command, "--help"]) == 0
    help_text = capsys.readouterr().out
    assert help_text.isascii() and "\033" not in help_text and "..." not in help_text.partition("Commands:")[2]
    assert max(len(line) for line in help_text.splitlines()) <= 80
    assert help_text.startswith(f"Usage: {' '.join(['taehv', *command])} ")
    if command not in ([], ["track"]):
        assert "Exit code: 0" in help_text and f"\n  {' '.join(['taehv', *command])}" in help_text
    assert ended([*command, "-h"]) == 0 and capsys.readouterr().out == help_text


def test_help_waits_for_no_large_library() -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'mlflow', 'av', 'pandas']))\n"
        f"from taehv.cli import main\nfor command in {EVERY_HELP!r}:\n"
        "    try: main([*command, '--help'])\n    except SystemExit as ended: assert ended.code == 0"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(["--version"]) == 0
    assert capsys.readouterr().out == f"taehv {__version__}\n"


@pytest.mark.parametrize("command", [[], ["track"]], ids=" ".join)
def test_no_command_is_wrong_usage_and_answered_with_help(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(command) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("Usage: taehv") and "Commands:" in shown.err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("docter", "No such command 'docter'. Did you mean 'doctor'? See taehv --help"),
        ("track exprt", "Did you mean 'export'? See taehv track --help"),
        ("doctor --profil h100", "No such option: --profil (Possible options: --profile). See taehv doctor --help"),
        ("doctor --stage x", "'--stage': 'x' is not one of 'a800_test', 'h100_train', 'all'. See taehv doctor --help"),
        ("encode in.mp4", "Missing argument 'LATENTS.safetensors'. See taehv encode --help"),
        ("encode a b c", "unexpected extra argument(s) (c). See taehv encode --help"),
        ("encode a b --dtype", "'--dtype' requires an argument. See taehv encode --help"),
        ("encode a b --max-pixels x", "Invalid value for '--max-pixels'"),
        ("convert -x.pth y.safetensors", "No such option: -x. See taehv convert --help"),
        ("manifest", "Name either a folder or an annotation file, or give --samples. See taehv manifest --help"),
        ("manifest . --samples", "Name either a folder or an annotation file, or give --samples"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(shlex.split(command)) == 2
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert shown.out == "" and line.startswith("error: ") and said in line


@pytest.mark.parametrize("name", ["-1", "-.5", "- holiday.pth", "-a=b c.pth", "latin\udcff,a:b.pth", "\r\x1b[31m.pth"])
def test_a_file_may_have_any_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([name, "out.pth"], ["--", name, "out.pth"]):
        assert main(["convert", *words]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line in (f"error: there is no file {shown(name)}", f"error: {name} is neither .pth nor .safetensors")


def test_a_name_that_begins_like_an_option_comes_after_two_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--", "-x.pth", "out.safetensors"]) == 1
    assert "there is no file -x.pth" in capsys.readouterr().err


def test_values_of_options_are_taken_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", "z.safetensors", "out.mp4", "--fps", "-5"]) == 1
    assert "got '-5'" in capsys.readouterr().err
    assert main(["convert", "--variant=- d", "in.pth", "out.safetensors"]) == 1
    assert "there is no file in.pth" in capsys.readouterr().err


def test_a_shell_completes_commands_and_options(tmp_path: Path) -> None:
    def completed(words: str) -> list[str]:
        asked = {"_TAEHV_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        command = [sys.executable, "-m", "taehv.cli"]
        environment = {**os.environ, **asked, "PYTHONPATH": str(REPOSITORY)}
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return result.stdout.split()

    assert completed("taehv re") == ["reconstruct"]
    assert completed("taehv track ") == ACTIONS
    assert completed("taehv doctor --st") == ["--stage"]
    assert completed("taehv encode in.mp4 out --dtype b") == ["bfloat16"]
