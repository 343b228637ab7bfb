"""`taehv doctor` for people and for scripts."""

from __future__ import annotations

import json

import pytest
from tests_support import Project

from taehv.doctor.finding import Finding
from taehv.doctor.report import lines, summary

FINDINGS = [
    Finding("disk", "pass", "plenty"),
    Finding("process group", "warn", "slow\nvery", "wait"),
    Finding("GPUs", "fail", "none", "buy some"),
]


def test_lines_are_in_columns_with_the_advice_below() -> None:
    assert list(lines(FINDINGS)) == [
        "pass  disk           plenty",
        "warn  process group  slow very",
        "                     -> wait",
        "fail  GPUs           none",
        "                     -> buy some",
    ]


def test_the_summary_mentions_only_what_there_is() -> None:
    assert summary(FINDINGS) == "doctor: 1 check passed, 1 warning, 1 failed"
    assert summary(FINDINGS[:1] * 3) == "doctor: 3 checks passed"


def test_colours_are_for_terminals(project: Project) -> None:
    assert "\033[" in next(iter(lines(FINDINGS, colours=True)))
    result = project.run("taehv.cli", "doctor")
    assert "\033[" not in result.stdout
    assert result.stdout.splitlines()[-1].startswith("doctor: ")


def test_json_is_complete_and_the_exit_code_says_whether_something_failed(project: Project) -> None:
    well = project.run("taehv.cli", "doctor", "--json")
    report = json.loads(well.stdout)
    assert report["schema"] == 1 and report["passed"] is True
    assert {finding["level"] for finding in report["findings"]} <= {"pass", "warn"}
    ill = project.run("taehv.cli", "doctor", "--json", "--stage", "h100_train", check=False)
    assert ill.returncode == 1
    assert json.loads(ill.stdout)["passed"] is False


@pytest.mark.parametrize("wrong", ["profile", "params"])
def test_a_wrong_configuration_is_exit_code_2(project: Project, wrong: str) -> None:
    if wrong == "params":
        project.change_params({"seed": "none"})
    result = project.run("taehv.cli", "doctor", "--profile", "b200" if wrong == "profile" else "local", check=False)
    assert result.returncode == 2
    assert ("must be one of a800, h100, local" if wrong == "profile" else "seed") in result.stderr


def test_looking_leaves_nothing_behind(project: Project) -> None:
    before = {path for path in project.root.rglob("*") if ".git/" not in str(path) and "__pycache__" not in str(path)}
    project.run("taehv.cli", "doctor")
    after = {path for path in project.root.rglob("*") if ".git/" not in str(path) and "__pycache__" not in str(path)}
    assert after == before
