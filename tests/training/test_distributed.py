"""One process, two and three do the same training. Real processes, gloo, CPU."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.project import SUPPORT, Project

pytestmark = pytest.mark.slow

WORKER = str(SUPPORT / "worker.py")
STEPS = 24
EXACT_STEPS = 50

Report = dict[str, Any]

FLOAT64: dict[str, Any] = {
    "gate": {"step": EXACT_STEPS},
    "scales": {
        "embedded": {
            "precision": "fp64",
            "data": {"frame_stride": [1, 2]},
            "augment": {
                "brightness": 0.15,
                "contrast": 0.15,
                "saturation": 0.15,
                "hue": 0.08,
                "blur_sigma": [0.1, 2.0],
            },
            "validation": {"every": 25},
            "checkpoint": {"every": 8},
            "steps": {"a800_test": EXACT_STEPS},
        }
    },
}


@dataclass(frozen=True)
class Run:
    """Training processes that have ended."""

    result: subprocess.CompletedProcess[str]
    ranks: list[Report]
    """Each process's report, where it came to its end."""

    def losses(self) -> dict[int, float]:
        return {row["step"]: row["train/loss"] for row in self.ranks[0]["rows"] if "train/loss" in row}

    def slots(self, step: int) -> list[Any]:
        return [draw for rank in self.ranks for draw in rank["draws"][str(step)]]

    def gradient(self) -> torch.Tensor:
        return torch.tensor(self.ranks[0]["gradient"], dtype=torch.float64)


def write_profile(project: Project, processes: int, per_device: int | str) -> None:
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


def train(
    project: Project,
    processes: int,
    *arguments: str,
    per_device: int | str = 4,
    work: str | None = None,
    check: bool = True,
) -> Run:
    folder = project.root / f"report-{len(list(project.root.glob('report-*')))}"
    folder.mkdir()
    write_profile(project, processes, per_device)
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    root = str(project.root / (work or f"work-{folder.name}"))
    environment = {"TAEHV_PROFILE": "test", "TAEHV_ROOT": root, "PYTHONPATH": "."}
    result = project.run(*launcher, WORKER, str(folder), *arguments, check=check, **environment)
    return Run(result, [json.loads(path.read_text()) for path in sorted(folder.iterdir())])


@pytest.fixture(scope="module")
def float32(prepared_tiny_project: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    project = prepared_tiny_project.copy(tmp_path_factory.mktemp("distributed") / "project")
    return {processes: train(project, processes) for processes in (1, 2, 3)}


@pytest.fixture(scope="module")
def float64_project(prepared_tiny_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = prepared_tiny_project.copy(tmp_path_factory.mktemp("float64") / "project")
    project.change_params(FLOAT64)
    return project


@pytest.fixture(scope="module")
def float64(float64_project: Project) -> dict[int, Run]:
    return {processes: train(float64_project, processes) for processes in (1, 2)}


@pytest.fixture(scope="module")
def stopped(float64_project: Project) -> Project:
    """Its folder `work` holds what two processes left at step 10, when the second was asked to stop."""
    run = train(float64_project, 2, "interrupt", work="work", check=False)
    assert run.result.returncode != 0
    assert "stopped by SIGTERM: a800_test is at step 10" in run.result.stderr
    return float64_project


@pytest.mark.parametrize("processes", [2, 3])
def test_more_processes_train_the_same_clips_as_one_in_every_step(float32: dict[int, Run], processes: int) -> None:
    for step in range(1, STEPS + 1):
        assert float32[processes].slots(step) == float32[1].slots(step)


@pytest.mark.parametrize("processes", [2, 3])
def test_the_first_gradient_is_the_same_within_1e_5(float32: dict[int, Run], processes: int) -> None:
    one, more = float32[1].gradient(), float32[processes].gradient()
    assert float((one - more).norm() / one.norm()) < 1e-5


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.soak)])
def test_losses_agree_within_1e_8_over_50_steps_in_float64(
    float64: dict[int, Run], float64_project: Project, processes: int
) -> None:
    run = float64.get(processes) or train(float64_project, processes)
    one, more = float64[1].losses(), run.losses()
    assert list(one) == list(more) == list(range(1, EXACT_STEPS + 1))
    assert list(more.values()) == pytest.approx(list(one.values()), rel=1e-8, abs=0.0)


@pytest.mark.parametrize("processes", [2, 3])
def test_losses_agree_over_the_run_in_float32(float32: dict[int, Run], processes: int) -> None:
    assert float32[processes].losses() == pytest.approx(float32[1].losses(), rel=1e-3)


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.soak), 3])
def test_a_checkpoint_of_two_processes_goes_on_with_one_and_with_three(
    stopped: Project, float64: dict[int, Run], tmp_path: Path, processes: int
) -> None:
    resumed = train(stopped.copy(tmp_path / "project"), processes, work="work")
    uninterrupted = {step: loss for step, loss in float64[1].losses().items() if step > 10}
    assert resumed.losses() == pytest.approx(uninterrupted, rel=1e-8, abs=0.0)
    assert resumed.ranks[0]["history"][-1]["psnr"] == pytest.approx(
        float64[1].ranks[0]["history"][-1]["psnr"], abs=1e-6
    )


def test_the_learning_rate_does_not_depend_on_the_number_of_processes(float32: dict[int, Run]) -> None:
    def rates(run: Run) -> list[float]:
        rows = run.ranks[0]["rows"]
        return [row["train/learning_rate_muon"] for row in rows if "train/learning_rate_muon" in row]

    assert len(rates(float32[1])) == STEPS
    assert rates(float32[1]) == rates(float32[2]) == rates(float32[3])


@pytest.mark.parametrize("processes", [2, 3])
def test_all_processes_hold_the_same_weights_and_history(float32: dict[int, Run], processes: int) -> None:
    ranks = float32[processes].ranks
    assert len(ranks) == processes
    assert len({rank["weights_sha256"] for rank in ranks}) == 1
    assert all(rank["history"] == ranks[0]["history"] for rank in ranks)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_logged_batch_is_the_real_one(float32: dict[int, Run], processes: int) -> None:
    batch = float32[processes].ranks[0]["summary"]["batch"]
    assert batch == {"global": 4, "processes": processes, "per_device": 4}
    assert len(float32[processes].slots(1)) == batch["global"]


def test_micro_batches_change_rounding_only(
    prepared_tiny_project: Project, float32: dict[int, Run], tmp_path: Path
) -> None:
    run = train(prepared_tiny_project.copy(tmp_path / "project"), 1, per_device=3)
    one, split = float32[1].gradient(), run.gradient()
    assert float((one - split).norm() / one.norm()) < 1e-5


def test_per_device_auto_is_agreed_by_all_processes_and_changes_nothing_where_all_fits(
    prepared_tiny_project: Project, float32: dict[int, Run], tmp_path: Path
) -> None:
    run = train(prepared_tiny_project.copy(tmp_path / "project"), 3, per_device="auto")
    assert {rank["summary"]["batch"]["per_device"] for rank in run.ranks} == {1}, "3 processes share 4 slots: 1, 1, 2"
    assert run.losses() == pytest.approx(float32[3].losses(), rel=1e-3)


def test_a_gradient_that_is_not_a_number_on_one_process_skips_the_step_on_all(
    prepared_tiny_project: Project, tmp_path: Path
) -> None:
    run = train(prepared_tiny_project.copy(tmp_path / "project"), 2, "poison", "1")
    first, second = run.ranks
    assert first["summary"]["counters"]["skipped_steps"] == 1
    assert second["summary"]["counters"]["skipped_steps"] == 1
    assert first["weights_sha256"] == second["weights_sha256"]
    guilty = ", ".join(str(draw["clip_id"]) for draw in second["draws"]["2"])
    assert f"step 2 skipped: loss or gradient is not finite (clips {guilty})" in run.result.stderr


def test_gradients_that_stay_not_finite_on_one_process_stop_all(prepared_tiny_project: Project, tmp_path: Path) -> None:
    project = prepared_tiny_project.copy(tmp_path / "project")
    project.change_params({"faults": {"max_skipped": 3}})
    run = train(project, 2, "poison", "100", work="work", check=False)
    assert run.result.returncode != 0
    assert run.ranks == []
    assert "stopped at step 5: loss or gradient was not finite in 4 successive steps" in run.result.stderr
    (report,) = (project.root / "work").rglob("fault.json")
    assert json.loads(report.read_text())["kind"] == "not finite"
    assert run.result.stderr.count("error: stopped at step 5") == 2, "both processes say the same"


def test_a_request_to_stop_while_steps_are_skipped_promises_no_checkpoint_that_is_not_there(
    prepared_tiny_project: Project, tmp_path: Path
) -> None:
    project = prepared_tiny_project.copy(tmp_path / "project")
    project.change_params({"faults": {"max_skipped": 99}})
    run = train(project, 1, "poison", "100", "interrupt", check=False)
    assert "a800_test is at step 10, its last steps were skipped, there is no checkpoint yet" in run.result.stderr


def test_processes_that_find_different_newest_checkpoints_do_not_train(stopped: Project, tmp_path: Path) -> None:
    project = stopped.copy(tmp_path / "project")
    run = train(project, 2, "unreadable", work="work", check=False)
    assert run.ranks == []
    assert "found different newest checkpoints" in run.result.stderr and "steps 10, 8, by process" in run.result.stderr
    assert train(project, 2, work="work").ranks[0]["summary"]["steps"] == EXACT_STEPS


def test_early_stopping_stops_all_processes_with_a_checkpoint(prepared_tiny_project: Project, tmp_path: Path) -> None:
    project = prepared_tiny_project.copy(tmp_path / "project")
    never_better = {
        "validation": {"early_stopping_patience": 1},
        "scales": {"embedded": {"optim": {"lr": 1e-12, "muon_lr": 1e-12}, "validation": {"every": 4}}},
    }
    project.change_params(never_better)
    ranks = train(project, 2, work="work").ranks
    assert [rank["summary"]["stopped_early"] for rank in ranks] == ["patience", "patience"]
    assert [rank["summary"]["steps"] for rank in ranks] == [4, 4]
    saved = [path.name for path in project.root.glob("work/.work/a800_test/*/*/step-*")]
    assert saved == ["step-4"], "between two checkpoints, which are every 8 steps"
