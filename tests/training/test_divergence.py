"""Numbers that go wrong stop the training before they cost more than they have to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.failpoints import at
from support.project import SUPPORT, Project

from taehv.config.params import Faults
from taehv.runtime.failpoints import Failpoint
from taehv.runtime.paths import TrainingOutputs
from taehv.training.auto_batch_size import out_of_memory
from taehv.training.divergence import Divergence, DivergenceError, note_step, stop_for
from taehv.training.run_files import oom_events
from taehv.training.run_metrics import gpu_utilisation
from taehv.training.state import Progress
from taehv.training.train_step import StepReport

LIMITS = Faults(max_skipped=2, max_loss_spike=10.0)


def report(distance: float = 1.0, *, skipped: bool = False, loss: float | None = None) -> StepReport:
    return StepReport(
        loss=distance if loss is None else loss,
        distance=distance,
        terms={"recon": distance},
        weights={"recon": 1.0},
        gradient_norm=1.0,
        term_gradient_norms={},
        discriminator_loss=None,
        learning_rates={},
        skipped=skipped,
        slots_not_finite=(),
    )


def faults_of(*reports: StepReport) -> list[str | None]:
    progress = Progress()
    found: list[str | None] = []
    for step, each in enumerate(reports, start=1):
        progress.step = step
        fault = note_step(progress, each, LIMITS)
        found.append(fault.kind if fault else None)
    return found


def test_a_few_skipped_steps_are_borne_and_one_more_in_a_row_is_not() -> None:
    bad, good = report(float("nan"), skipped=True), report()
    assert faults_of(bad, bad, good, bad, bad, bad) == [None, None, None, None, None, "not finite"]


def test_before_any_step_was_applied_the_learning_rate_is_not_to_blame() -> None:
    progress, bad = Progress(), report(float("nan"), skipped=True)
    first = [note_step(progress, bad, LIMITS) for _ in range(3)][-1]
    assert first is not None
    assert "the first ones" in first.detail
    assert "no step has been applied yet" in first.advice and "model.weights" in first.advice
    progress = Progress()
    note_step(progress, report(), LIMITS)
    later = [note_step(progress, bad, LIMITS) for _ in range(3)][-1]
    assert later is not None and "lower the learning rate" in later.advice


def test_a_loss_far_above_its_average_stops_the_training() -> None:
    assert faults_of(report(1.0), report(9.0), report(1.0)) == [None, None, None]
    assert faults_of(report(1.0), report(11.0)) == [None, "loss spike"]


def test_the_average_follows_a_loss_that_falls() -> None:
    falling = [report(0.99**step) for step in range(500)]
    assert set(faults_of(*falling, report(0.99**500 * 5))) == {None}
    assert faults_of(*falling, report(1.0))[-1] == "loss spike"


def test_the_adversarial_term_coming_in_is_no_spike() -> None:
    assert faults_of(report(0.01), report(0.01, loss=1.0)) == [None, None]


def test_a_skipped_step_leaves_the_average_as_it_was() -> None:
    progress = Progress()
    note_step(progress, report(1.0), LIMITS)
    note_step(progress, report(float("inf"), skipped=True), LIMITS)
    assert (progress.loss_average, progress.skipped_steps) == (1.0, 1)


def test_the_report_holds_what_is_known(tmp_path: Path) -> None:
    fault = Divergence("not finite", 7, "detail", "advice")
    with pytest.raises(DivergenceError, match="stopped at step 7") as caught:
        stop_for(fault, report(float("nan")), [], None, tmp_path / "fault.json")
    facts: dict[str, Any] = json.loads(caught.value.report.read_text())
    assert (facts["kind"], facts["loss"], facts["checkpoint"]) == ("not finite", "nan", None)


def test_of_several_processes_one_writes_the_report_and_all_raise_the_same(tmp_path: Path) -> None:
    fault = Divergence("not finite", 7, "detail", "advice")
    with pytest.raises(DivergenceError) as other:
        stop_for(fault, report(float("nan")), [], None, tmp_path / "fault.json", write=False)
    assert not (tmp_path / "fault.json").exists()
    with pytest.raises(DivergenceError) as main:
        stop_for(fault, report(float("nan")), [], None, tmp_path / "fault.json")
    assert str(other.value) == str(main.value)


COUNT = """
import sys
from pathlib import Path
from taehv.runtime.paths import TrainingOutputs
from taehv.training.run_files import count_oom_event
for _ in range(100):
    count_oom_event(TrainingOutputs(Path(sys.argv[1])))
"""


@pytest.mark.slow
def test_processes_that_run_out_of_memory_at_once_are_all_counted(tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert oom_events(TrainingOutputs(tmp_path)) == 300


def test_out_of_memory_with_a_single_clip_does_not_advise_what_is_already_so() -> None:
    message = str(out_of_memory("at step 3", "per_device", 1, "h100"))
    assert "out of memory at step 3: not even one clip" in message and "Set per_device" not in message


def test_a_gpu_whose_utilisation_cannot_be_measured_does_not_end_the_training() -> None:
    """This machine has none; with a real one the number is a percentage."""
    found = gpu_utilisation(torch.device("cuda"))
    assert found is None or 0.0 <= found <= 100.0


def with_spoiled_validation(project: Project, step: int, **environment: str) -> subprocess.CompletedProcess[str]:
    """a800_test, whose validation at one step gives no number."""
    return subprocess.run(
        [sys.executable, str(SUPPORT / "spoiled_validation.py"), str(step)],
        cwd=project.root,
        env=project.environment({"PYTHONPATH": ".", **environment}),
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_last_validation_that_is_not_a_number_is_null_and_fails_the_gate(tiny_project: Project) -> None:
    result = with_spoiled_validation(tiny_project, 24)
    assert result.returncode == 0, result.stderr
    assert tiny_project.json("runs/a800_test/summary.json")["final"] == {"step": 24, "psnr_db": None}
    judged = tiny_project.run("stages.gate_psnr", check=False)
    assert judged.returncode == 1
    assert "psnr_at_gate_step: not measured" in judged.stderr
    assert "the validation there gave no finite number" in judged.stderr


@pytest.mark.slow
def test_a_first_validation_that_is_not_a_number_is_not_repeated_wherever_the_run_resumes(
    tiny_project: Project,
) -> None:
    """The same run loses the end of its journal, which is said, to the event."""
    stopped = with_spoiled_validation(tiny_project, 0, **at(Failpoint.STEP, "SIGTERM", 5))
    assert "is at step 5" in stopped.stderr
    (checkpoint,) = tiny_project.root.glob(".work/a800_test/*/rolling/step-5")
    kept = json.loads((checkpoint / "progress.json").read_text())["journal_position"]
    journal = next(tiny_project.root.glob(".work/a800_test/*/tracking/journal.jsonl"))
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[: kept - 2]))
    journal.with_name("sent.json").unlink()
    resumed = tiny_project.run("stages.a800_test")
    history = tiny_project.json("runs/a800_test/validation_history.json")["history"]
    assert [(row["step"], row["psnr"] is None) for row in history] == [(0, True), (8, False), (16, False), (24, False)]
    assert "the journal has lost 2 events" in resumed.stdout


@pytest.mark.slow
def test_a_learning_rate_that_explodes_stops_with_a_checkpoint_from_before(tiny_project: Project) -> None:
    """A rate that a person might really set by mistake; the run is the real stage."""
    tiny_project.change_profile(checkpoint_every=1)
    tiny_project.change_params({"scales": {"embedded": {"optim": {"muon_lr": 3.0, "lr": 3.0, "warmup_steps": 8}}}})
    result = tiny_project.run("stages.a800_test", check=False)
    assert result.returncode == 1
    assert "error: stopped at step" in result.stderr and "lower the learning rate" in result.stderr
    (file,) = tiny_project.root.glob(".work/a800_test/*/fault.json")
    facts = json.loads(file.read_text())
    before = tiny_project.root / facts["checkpoint"]
    assert before.is_dir() and int(before.name[5:]) < facts["step"]
    assert facts["clips"]


@pytest.mark.slow
def test_out_of_memory_names_the_setting_and_the_next_run_goes_on_with_it(tiny_project: Project) -> None:
    """The process really gets no more memory from step 2 on."""
    tiny_project.change_params({"scales": {"embedded": {"batch": {"global": 32}, "seraena": {"replay_mib": 4}}}})
    tiny_project.change_profile(per_device=32, checkpoint_every=1)
    starved = tiny_project.run("stages.a800_test", check=False, **at(Failpoint.STEP, "no-memory", 2))
    assert starved.returncode == 1
    assert "out of memory at step 3 with 32 clips per micro-batch. Set per_device: 16 in profiles/local.yaml" in (
        starved.stderr
    )
    tiny_project.change_profile(per_device=16)
    assert "resumed unfinished work at step 2" in tiny_project.run("stages.a800_test").stdout


@pytest.mark.slow
def test_out_of_memory_in_a_validation_names_its_own_setting(tiny_project: Project) -> None:
    """The process really gets no more memory than a training step of single clips has left it."""
    tiny_project.change_profile(per_device=1, validation_batch=64)
    starved = tiny_project.run("stages.a800_test", check=False, **at(Failpoint.STEP, "no-memory", 8))
    assert starved.returncode == 1
    assert "out of memory in the validation at step 8 with" in starved.stderr
    assert "Set validation_batch: " in starved.stderr and "in profiles/local.yaml" in starved.stderr
    assert "Traceback" not in starved.stderr


AUTO = """
import resource, sys, torch
from pathlib import Path
from accelerate import Accelerator
from taehv.training.auto_batch_size import largest_that_fits

class Step:
    own_slots = 16
    def rehearse(self, step, size):
        self.held = torch.ones(size, 2**20 * 100, dtype=torch.uint8)
    def forget_gradients(self):
        self.held = None

Step().rehearse(1, 1)
accelerator = Accelerator(cpu=True)
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**20 * 100 * int(sys.argv[1]) + 2**20 * 90,) * 2)
print(largest_that_fits(Step(), accelerator, 1))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("room_for", "found"), [(20, "16"), (9, "8"), (1, "1")])
def test_per_device_auto_halves_until_it_fits(room_for: int, found: str) -> None:
    result = subprocess.run([sys.executable, "-c", AUTO, str(room_for)], capture_output=True, text=True)
    assert result.stdout.strip() == found, result.stderr


@pytest.mark.slow
def test_per_device_auto_says_so_when_not_even_one_clip_fits() -> None:
    result = subprocess.run([sys.executable, "-c", AUTO, "0"], capture_output=True, text=True)
    assert "not even one clip per micro-batch fits" in result.stderr
