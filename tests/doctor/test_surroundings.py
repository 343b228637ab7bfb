"""Packages, limits of the operating system, and the clock."""

from __future__ import annotations

import importlib.metadata
import resource
import time
from pathlib import Path

import pytest
from support.run_contexts import changed_profile, context, found

from taehv.doctor.check import Check, Level, size
from taehv.doctor.machine_limits import check_machine_limits, check_open_files, check_threads
from taehv.doctor.packages import check_packages, is_same
from taehv.doctor.tracking_store import check_clock, check_tracking_store, judge_server_clock, judge_wall_clock


def lock_with(folder: Path, *lines: str) -> None:
    (folder / "requirements.lock").write_text("\n".join(lines) + "\n")


def test_another_version_than_the_locked_one_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch = importlib.metadata.version("torch").split("+")[0]
    lock_with(tmp_path, "# a comment", "numpy==1.0", f"torch=={torch}", "pywin32==1 ; sys_platform == 'win32'")
    check_result = found(check_packages(context()), "packages")
    assert check_result.level == "warn"
    assert check_result.detail == f"numpy {importlib.metadata.version('numpy')}, not 1.0"


def test_a_cpu_build_of_the_same_version_is_the_same() -> None:
    assert is_same("2.14.1+cpu", "2.14.1")
    assert not is_same("2.14.1+cpu", "2.14.0")


def test_without_a_lock_file_there_is_nothing_to_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert found(check_packages(context()), "packages").level == "warn"


def test_more_shards_than_open_files_fail_before_training_meets_the_limit() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        pytest.skip("this machine has no limit of open files")
    check_result = check_open_files(shards=soft)
    assert check_result.level == "fail"
    assert check_result.what_to_do is not None and "ulimit -n" in check_result.what_to_do


def test_shared_memory_matters_only_to_several_processes() -> None:
    one, two = context(), context(profile=changed_profile(launcher="torchrun", processes=2))
    assert "shared memory" not in {check_result.name for check_result in check_machine_limits(one)}
    assert "shared memory" in {check_result.name for check_result in check_machine_limits(two)}


@pytest.mark.parametrize(("processes", "threads", "level"), [(2, None, "pass"), (2, 2, "pass"), (2, 3, "warn")])
def test_more_threads_than_cores_warn(
    processes: int, threads: int | None, level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert check_threads(processes, threads, cores=4).level == level


def test_threads_that_spin_long_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "infinity")
    assert check_threads(1, 1, cores=4).level == "warn"


def test_a_clock_behind_the_newest_commit_warns() -> None:
    now = time.time()
    assert judge_wall_clock(now, now + 3600).level == "warn"
    assert judge_wall_clock(now, now + 5).level == "pass"
    assert judge_wall_clock(now, None).level == "pass"


@pytest.mark.parametrize(("ahead", "levels"), [(None, []), (-3.0, ["pass"]), (61.0, ["warn"]), (-3600.0, ["warn"])])
def test_the_servers_clock_may_differ_by_a_minute(ahead: float | None, levels: list[str]) -> None:
    assert [check_result.level for check_result in judge_server_clock(ahead)] == levels


def test_the_clock_is_looked_at_without_git_or_a_lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAEHV_ROOT", str(tmp_path))
    assert found(check_clock(context()), "clock").level == "pass"


@pytest.mark.parametrize(("at_start", "level"), [(False, "fail"), (True, "warn")])
def test_a_dead_server_fails_before_the_run_and_only_warns_at_its_start(
    at_start: bool, level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
    (check_result,) = check_tracking_store(context(at_start_of_stage=at_start))
    assert check_result.level == level
    assert "secret" not in check_result.detail and "***" in check_result.detail


def test_a_uri_that_mlflow_cannot_use_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"nonsense://{tmp_path}")
    (check_result,) = check_tracking_store(context())
    assert check_result.level == "fail"


def test_a_finding_carries_advice_exactly_when_something_is_wrong() -> None:
    with pytest.raises(AssertionError):
        Check("disk", "fail", "full")
    with pytest.raises(AssertionError):
        Check("disk", "pass", "empty", "nothing")


@pytest.mark.parametrize(("count", "shown"), [(0, "0.00 MB"), (4.2e6, "4.2 MB"), (1.25e9, "1.2 GB"), (3e12, "3.0 TB")])
def test_bytes_are_shown_in_decimal_units(count: float, shown: str) -> None:
    assert size(count) == shown
