"""`taehv doctor` for people and for scripts."""

from __future__ import annotations

import json

import pytest
from support.project import Project

from taehv.cli import main
from taehv.doctor.check import Check, lines, summary

FINDINGS = [
    Check("disk", "pass", "plenty"),
    Check("process group", "warn", "slow\nvery", "wait"),
    Check("GPUs", "fail", "none", "buy some"),
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


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(project.root)
    for name in ("DVC_ROOT", "DVC_EXP_NAME", "MLFLOW_TRACKING_URI", "TAEHV_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    return project


def test_colours_are_for_terminals(here: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert "\033[" in next(iter(lines(FINDINGS, colours=True)))
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "\033[" not in printed
    assert printed.splitlines()[-1].startswith("doctor: ")


def test_json_is_complete_and_the_exit_code_says_whether_something_failed(
    here: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == 1 and report["passed"] is True
    assert {check_result["level"] for check_result in report["findings"]} <= {"pass", "warn"}
    assert main(["doctor", "--json", "--stage", "h100_train"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_a_wrong_configuration_is_exit_code_2(here: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--profile", "b200"]) == 2
    assert "must be one of a800, h100, local, ray" in capsys.readouterr().err
    here.change_params({"seed": "none"})
    assert main(["doctor"]) == 2
    assert "seed" in capsys.readouterr().err


def test_looking_leaves_nothing_behind(here: Project) -> None:
    def files() -> set[str]:
        return {str(path) for path in here.root.rglob("*") if ".git/" not in str(path)}

    before = files()
    main(["doctor"])
    assert files() == before


def test_the_help_says_what_the_exit_code_means(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--help"])
    assert "Exit code: 0 nothing failed" in " ".join(capsys.readouterr().out.split())
