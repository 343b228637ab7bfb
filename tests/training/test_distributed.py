"""One process and two do the same training. Real processes, gloo, CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests_support import Project

pytestmark = pytest.mark.slow

WORKER = str(Path(__file__).parent / "worker.py")
STEPS = 24


def write_profile(project: Project, processes: int, per_device: int = 4) -> None:
    local = yaml.safe_load((project.root / "profiles/local.yaml").read_text())
    launcher = "torchrun" if processes > 1 else "inline"
    changes = {
        "name": "test",
        "launcher": launcher,
        "processes": processes,
        "per_device": per_device,
        "log_every": 1,
        "threads": 1,
    }
    (project.root / "profiles/test.yaml").write_text(yaml.safe_dump({**local, **changes}))


def train(project: Project, processes: int, *arguments: str, per_device: int = 4) -> list[dict[str, Any]]:
    """Each process's report."""
    folder = project.root / f"report-{processes}-{per_device}-{len(arguments)}"
    folder.mkdir()
    write_profile(project, processes, per_device)
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    root = str(project.root / f"work-{folder.name}")
    project.run(*launcher, WORKER, str(folder), *arguments, TAEHV_PROFILE="test", DVC_ROOT=root, PYTHONPATH=".")
    return [json.loads(path.read_text()) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def reports(
    prepared_tiny_project: Project, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, list[dict[str, Any]]]:
    project = prepared_tiny_project.copy(tmp_path_factory.mktemp("distributed") / "project")
    return {1: train(project, 1), 2: train(project, 2)}


def slots_of(step: str, ranks: list[dict[str, Any]]) -> list[Any]:
    return [draw for rank in ranks for draw in rank["draws"][step]]


def test_two_processes_train_the_same_clips_as_one_in_every_step(reports: dict[int, list[dict[str, Any]]]) -> None:
    for step in map(str, range(1, STEPS + 1)):
        assert slots_of(step, reports[2]) == slots_of(step, reports[1])


def test_the_first_gradient_is_the_same_within_1e_5(reports: dict[int, list[dict[str, Any]]]) -> None:
    one, two = (torch.tensor(reports[processes][0]["gradient"]) for processes in (1, 2))
    assert float((one - two).norm() / one.norm()) < 1e-5


def test_the_learning_rate_does_not_depend_on_the_number_of_processes(
    reports: dict[int, list[dict[str, Any]]],
) -> None:
    def rates(ranks: list[dict[str, Any]]) -> list[float]:
        return [row["train/learning_rate_muon"] for row in ranks[0]["rows"] if "train/learning_rate_muon" in row]

    assert len(rates(reports[1])) == STEPS
    assert rates(reports[1]) == rates(reports[2])


def test_both_processes_hold_the_same_weights_and_history(reports: dict[int, list[dict[str, Any]]]) -> None:
    first, second = reports[2]
    assert first["weights_sha256"] == second["weights_sha256"]
    assert first["history"] == second["history"]


def test_losses_agree_over_the_run(reports: dict[int, list[dict[str, Any]]]) -> None:
    def losses(ranks: list[dict[str, Any]]) -> list[float]:
        return [row["train/loss"] for row in ranks[0]["rows"] if "train/loss" in row]

    assert losses(reports[1]) == pytest.approx(losses(reports[2]), rel=1e-3)


def test_the_logged_batch_is_the_real_one(reports: dict[int, list[dict[str, Any]]]) -> None:
    for processes, ranks in reports.items():
        batch = ranks[0]["metrics"]["batch"]
        assert batch == {"global": 4, "processes": processes, "per_device": 4}
        assert len(slots_of("1", ranks)) == batch["global"]


def test_micro_batches_change_rounding_only(
    prepared_tiny_project: Project, reports: dict[int, list[dict[str, Any]]], tmp_path: Path
) -> None:
    (report,) = train(prepared_tiny_project.copy(tmp_path / "project"), 1, per_device=3)
    one, split = torch.tensor(reports[1][0]["gradient"]), torch.tensor(report["gradient"])
    assert float((one - split).norm() / one.norm()) < 1e-5


def test_a_gradient_that_is_not_a_number_on_one_process_skips_the_step_on_all(
    prepared_tiny_project: Project, tmp_path: Path
) -> None:
    first, second = train(prepared_tiny_project.copy(tmp_path / "project"), 2, "poison")
    assert first["metrics"]["counters"]["skipped_steps"] == 1
    assert second["metrics"]["counters"]["skipped_steps"] == 1
    assert first["weights_sha256"] == second["weights_sha256"]


def test_early_stopping_stops_all_processes(prepared_tiny_project: Project, tmp_path: Path) -> None:
    project = prepared_tiny_project.copy(tmp_path / "project")
    never_better = {
        "validation": {"early_stopping_patience": 1},
        "scales": {"embedded": {"optim": {"lr": 1e-12, "muon_lr": 1e-12}}},
    }
    project.change_params(never_better)
    ranks = train(project, 2)
    assert [rank["metrics"]["stopped_early"] for rank in ranks] == ["patience", "patience"]
    assert [rank["metrics"]["steps"] for rank in ranks] == [8, 8]
