"""What pytest's processes share is made once, and where it cannot be made, all of them are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.built_once import built_once

TESTS = str(Path(__file__).parents[1])
CONFTEST = """
import os, time
from pathlib import Path
import pytest
from support.built_once import built_once

def build(folder):
    with open(os.environ["BUILDS"], "a") as builds:
        builds.write(os.environ["PYTEST_XDIST_WORKER"] + "\\n")
    time.sleep(0.5)
    (folder / "half").touch()
    {then}

@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    return built_once(tmp_path_factory, "shared", build)
"""


def two_processes_that_share(folder: Path, then: str) -> tuple[str, int]:
    """What pytest prints for two files, run side by side, that need the same; and how often it was built."""
    (folder / "conftest.py").write_text(CONFTEST.format(then=then))
    for name in ("test_a.py", "test_b.py"):
        (folder / name).write_text("def test_it(shared):\n    assert (shared / 'half').exists()\n")
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-p", "xdist"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": TESTS, "BUILDS": str(folder / "builds")}
    command += ["--rootdir", str(folder), f"--basetemp={folder / 'temporary'}", str(folder)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return result.stdout, (folder / "builds").read_text().count("\n")


@pytest.mark.slow
def test_the_first_process_builds_and_the_other_waits(tmp_path: Path) -> None:
    printed, builds = two_processes_that_share(tmp_path, then="pass")
    assert "2 passed" in printed
    assert builds == 1


@pytest.mark.slow
def test_what_cannot_be_built_is_tried_once_and_told_to_all(tmp_path: Path) -> None:
    printed, builds = two_processes_that_share(tmp_path, then="raise OSError('no room')")
    assert "2 errors" in printed
    assert printed.count("OSError: no room") >= 2
    assert "shared could not be built" in printed
    assert builds == 1


def test_half_of_what_a_killed_process_built_is_built_anew(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.setattr(tmp_path_factory, "_basetemp", tmp_path)

    def build(folder: Path) -> None:
        assert list(folder.iterdir()) == []
        (folder / "half").touch()

    def build_and_die(folder: Path) -> None:
        build(folder)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        built_once(tmp_path_factory, "killed", build_and_die)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert list(built_once(tmp_path_factory, "killed", build).iterdir()) == [tmp_path / "built-once/killed/half"]
