"""The processes of a profile are really started, and never left behind."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest
from support.run_contexts import changed_profile, context

from taehv.doctor.process_group import check_process_group, try_process_group

TWO = changed_profile(launcher="torchrun", processes=2)


def worker(folder: Path, program: str) -> list[str]:
    file = folder / "worker.py"
    file.write_text(program, encoding="utf-8")
    return [sys.executable, str(file)]


def children() -> list[int]:
    return [process.pid for process in psutil.Process().children(recursive=True)]


@pytest.mark.slow
def test_two_processes_find_each_other_over_gloo() -> None:
    check_result = try_process_group(2, "gloo", timeout_s=1800)
    assert check_result.level == "pass", check_result.detail
    assert "2 processes, all-reduce in" in check_result.detail


def test_one_process_needs_no_group_and_a_stage_starts_its_own() -> None:
    before = children()
    (check_result,) = check_process_group(context())
    assert check_result.level == "pass"
    assert check_process_group(context(profile=TWO, at_start_of_stage=True)) == []
    assert children() == before


@pytest.mark.slow
def test_a_process_that_hangs_is_a_failure_within_the_time_limit_and_is_ended(tmp_path: Path) -> None:
    hanging = "import os, time\nif os.environ['RANK'] == '1':\n    time.sleep(3600)\nprint('0.1')\n"
    started = time.monotonic()
    check_result = try_process_group(2, "gloo", timeout_s=5, worker=worker(tmp_path, hanging))
    assert check_result.level == "fail"
    assert check_result.detail.startswith("no answer within 5 s from process ")
    assert check_result.detail.endswith("1 of 2")
    assert time.monotonic() - started < 1800, "it waited for the process and not for the limit"
    assert not [pid for pid in children() if "worker.py" in " ".join(psutil.Process(pid).cmdline())]


def test_a_process_that_fails_is_quoted_and_the_others_are_not_waited_for(tmp_path: Path) -> None:
    failing = (
        "import os, sys, time\nif os.environ['RANK'] == '0':\n    time.sleep(3600)\nsys.exit('no such interface')\n"
    )
    check_result = try_process_group(2, "gloo", timeout_s=1800, worker=worker(tmp_path, failing))
    assert check_result.level == "fail"
    assert check_result.detail == "process 1 of 2 failed: no such interface"
