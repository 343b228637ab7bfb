"""A list of locks that a crash cut off is found, and deleted where no DVC is alive."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.project import Project
from support.run_contexts import context, found

from taehv.doctor.repository import check_repository
from taehv.launch.dvc_locks import LOCK_LISTS, damaged_lock_lists, fix_lock_lists, living_dvc
from taehv.runtime.errors import UserError

WHOLE = [
    "{}",
    '{"write": {"/data/clips": {"pid": 7, "cmd": "dvc repro"}}, "read": {}}',
    '{"read": {"/data/clips": [{"pid": 7, "cmd": "dvc repro"}]}}',
]
DAMAGED = [
    "",
    '{"write": {"/da',
    "\0" * 40,
    "[]",
    '{"write": {"/data/clips": {"pid": "7"}}}',
    '{"read": {"/data": {}}}',
]
STAGE = "from pathlib import Path\nPath('ran').touch()\nraise SystemExit(3)\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in LOCK_LISTS:
        (tmp_path / path.parent).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TAEHV_ROOT", raising=False)
    return tmp_path


@pytest.fixture
def living(here: Path) -> Iterator[int]:
    """A process that looks like DVC at work in an experiment of this repository."""
    copy = here / ".dvc/tmp/exps/tmp1"
    copy.mkdir()
    command = [sys.executable, "-c", "import time; time.sleep(600)", "-m", "dvc", "repro"]
    process = subprocess.Popen(command, cwd=copy)
    yield process.pid
    process.kill()
    process.wait()


@pytest.mark.parametrize("path", LOCK_LISTS, ids=str)
@pytest.mark.parametrize("content", WHOLE)
def test_a_whole_list_stays(here: Path, path: Path, content: str) -> None:
    path.write_text(content)
    assert fix_lock_lists() == []
    assert path.read_text() == content


@pytest.mark.parametrize("path", LOCK_LISTS, ids=str)
@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_list_is_deleted_where_no_dvc_is_alive(here: Path, path: Path, content: str) -> None:
    path.write_text(content)
    assert list(damaged_lock_lists()) == [here / path]
    (said,) = fix_lock_lists()
    assert str(path) in said and not path.exists()
    assert fix_lock_lists() == []


def test_nothing_is_deleted_while_a_dvc_works_here(here: Path, living: int) -> None:
    LOCK_LISTS[0].write_text("")
    with pytest.raises(UserError, match=f"DVC is working here .process {living}."):
        fix_lock_lists()
    assert LOCK_LISTS[0].exists()


def test_a_dvc_of_another_repository_does_not_count(living: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert living_dvc() == [f"process {living}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("another"))
        assert living_dvc() == []


def test_nothing_is_deleted_while_dvc_changes_the_list(here: Path) -> None:
    LOCK_LISTS[0].write_text("")
    with LOCK_LISTS[0].with_name("rwlock.lock").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="a process that is changing the list"):
            fix_lock_lists()
    assert LOCK_LISTS[0].exists()


@pytest.mark.slow
def test_the_launcher_runs_again_after_a_crash_and_the_doctor_says_what_is_wrong(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.root / "stages/prepare_data.py").write_text(STAGE)
    lock_list = project.root / LOCK_LISTS[0]
    lock_list.parent.mkdir(parents=True, exist_ok=True)
    lock_list.write_text('{"write": {"')
    dvc = project.run("dvc", "repro", "prepare_data", check=False)
    assert dvc.returncode == 255 and "JSON structure is corrupted" in dvc.stderr
    monkeypatch.chdir(project.root)
    check_result = found(check_repository(context()), "DVC")
    assert check_result.level == "fail" and "cut off" in check_result.detail
    assert check_result.what_to_do is not None and check_result.what_to_do.endswith(f"rm {lock_list}")
    assert not (project.root / "ran").exists()
    result = project.run("taehv.launch", "prepare_data", check=False)
    assert (project.root / "ran").exists(), result.stderr
    assert "was deleted" in result.stderr
    assert found(check_repository(context()), "DVC").level == "pass"
