"""What a test asks a real process to do to itself is done at the named moment, or refused at the program's start."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import timeit
from collections import Counter
from pathlib import Path

import pytest
from support.failpoints import Hold, at
from support.project import REPOSITORY

from taehv.runtime.failpoints import VARIABLE, Failpoint, failpoint, read

THREE_STEPS = """
from taehv.runtime.failpoints import Failpoint, failpoint
for step in (1, 2, 3):
    failpoint(Failpoint.STEP)
    print(step, flush=True)
"""


def start(environment: dict[str, str], program: str = THREE_STEPS) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_every_moment_is_passed_in_one_place_of_the_product() -> None:
    passed = Counter(
        ast.unparse(node.args[0])
        for folder in ("taehv", "stages")
        for file in (REPOSITORY / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoint"
    )
    assert passed == Counter(f"Failpoint.{moment.name}" for moment in Failpoint)


def test_every_moment_is_needed_by_a_test() -> None:
    files = [file for file in (REPOSITORY / "tests").rglob("test_*.py") if file != Path(__file__)]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    assert [moment for moment in Failpoint if f"Failpoint.{moment.name}" not in text] == []


def test_a_process_is_killed_when_it_comes_by_for_the_last_time_that_was_asked_for() -> None:
    process = start(at(Failpoint.STEP, "SIGKILL", 3))
    output, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert output == "1\n2\n"
    assert errors == "TAEHV_FAILPOINT: step:3:SIGKILL\n"


def test_several_may_be_asked_for_and_one_action_may_be_two_signals() -> None:
    program = (
        "import signal\nfor number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP):\n"
        "    signal.signal(number, lambda number, _: print(signal.Signals(number).name, flush=True))\n" + THREE_STEPS
    )
    both = {VARIABLE: f"{Failpoint.STEP}:1:SIGTERM+SIGUSR1,{Failpoint.EDITS}:1:SIGKILL,{Failpoint.STEP}:3:SIGHUP"}
    output, _ = start(both, program).communicate()
    assert sorted(output.split()[:2]) == ["SIGTERM", "SIGUSR1"]
    assert output.split()[2:] == ["1", "2", "SIGHUP", "3"]


def test_a_process_is_held_until_it_is_released_and_later_ones_are_not(tmp_path: Path) -> None:
    hold = Hold(tmp_path / "go-on")
    process = start(hold.at(Failpoint.STEP, 2))
    assert hold.wait() == process.pid
    assert process.poll() is None
    hold.release()
    assert process.communicate()[0] == "1\n2\n3\n"
    assert start(hold.at(Failpoint.STEP, 2)).communicate()[0] == "1\n2\n3\n"


def test_no_memory_is_what_the_process_has_at_that_moment() -> None:
    output, errors = start(at(Failpoint.STEP, "no-memory", 2), THREE_STEPS + "bytearray(2**30)").communicate()
    assert output == "1\n2\n3\n"
    assert errors.endswith("MemoryError\n")


def test_of_several_training_processes_only_the_first_acts() -> None:
    kill = at(Failpoint.STEP, "SIGKILL")
    processes = [start({**kill, "RANK": rank}) for rank in ("0", "1")]
    assert [(process.communicate()[0], process.returncode) for process in processes] == [("", -9), ("1\n2\n3\n", 0)]


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ("steps:1:SIGKILL", "there is no moment 'steps', only video, shard, step, "),
        ("step:0:SIGKILL", "needs a COUNT of 1 or more, not '0'"),
        ("step:SIGKILL", "needs a COUNT of 1 or more, not 'SIGKILL'"),
        ("step:1:SIGNONE", "there is no action 'SIGNONE', only signals"),
        ("step:1:SIGTERM+", "there is no action 'SIGTERM+'"),
        ("step:1:hold", "there is no action 'hold'"),
        ("step:1:SIGKILL,finished", "TAEHV_FAILPOINT=finished: NAME:COUNT:ACTION needs"),
    ],
)
def test_what_there_is_not_is_refused(asked: str, problem: str) -> None:
    with pytest.raises(ValueError) as refused:
        read({VARIABLE: asked})
    assert problem in str(refused.value)


@pytest.mark.parametrize("stage", ["prepare_data", "a800_test", "gate_psnr"])
def test_a_stage_with_an_unknown_moment_ends_at_its_start_with_one_line(stage: str, tmp_path: Path) -> None:
    program = f"import runpy\nrunpy.run_module('stages.{stage}', run_name='__main__')"
    process = start({VARIABLE: "steps:1:SIGKILL", "TAEHV_ROOT": str(tmp_path)}, program)
    output, errors = process.communicate()
    assert (process.returncode, output) == (1, "")
    assert errors.startswith("error: TAEHV_FAILPOINT=steps:1:SIGKILL: there is no moment 'steps'")
    assert len(errors.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_where_nothing_is_asked_for_a_moment_costs_less_than_a_microsecond() -> None:
    assert read({}) == []
    fastest = min(timeit.repeat(lambda: failpoint(Failpoint.STEP), number=1000, repeat=20)) / 1000
    assert fastest < 1e-6
