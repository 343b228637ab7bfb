"""What is edited while a stage runs is not recorded as if the stage had used it. Real DVC, real stages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from support.failpoints import Hold
from support.project import Project, copy_repository

from stages.recorded_inputs import RecordedInputs
from taehv.config.params import load_params
from taehv.runtime.errors import UserError
from taehv.runtime.failpoints import Failpoint

FAILED_STAGE = 255
"""What `dvc repro` returns when a stage fails."""


def tracked(project: Project, stage: str) -> list[Run]:
    """The stage's runs in the project's own store, the newest first."""
    client = MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    experiment = client.get_experiment_by_name("taehv")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.stage = '{stage}'"))


def locked_stages(project: Project) -> set[str]:
    return set(yaml.safe_load((project.root / "dvc.lock").read_text())["stages"])


class TestWhatCountsAsAnEdit:
    @pytest.fixture(scope="class")
    def copy(self, tmp_path_factory: pytest.TempPathFactory) -> Project:
        return copy_repository(tmp_path_factory.mktemp("edited") / "project")

    @pytest.fixture
    def inputs(self, copy: Project, monkeypatch: pytest.MonkeyPatch) -> RecordedInputs:
        copy.git("checkout", "-q", ".")
        copy.git("clean", "-qfdx")
        monkeypatch.chdir(copy.root)
        return RecordedInputs.at_start("a800_test", load_params())

    def test_nothing_and_a_comment_and_what_python_makes_are_none(self, copy: Project, inputs: RecordedInputs) -> None:
        params = copy.root / "params.yaml"
        params.write_text(params.read_text() + "\n# a note\n")
        (copy.root / "taehv/training/__pycache__").mkdir()
        (copy.root / "taehv/training/__pycache__/loop.cpython-311.pyc").write_bytes(b"")
        assert inputs.edits() == []
        inputs.refuse_edits("never")

    def test_a_parameter_of_the_stage_is_one_and_another_stages_is_none(
        self, copy: Project, inputs: RecordedInputs
    ) -> None:
        copy.change_params({"evaluate": {"parity_fail_db": 3.0}})
        assert inputs.edits() == []
        copy.change_params({"loss": {"recon": 20.0}, "scales": {"embedded": {"optim": {"muon_lr": 0.1}}}})
        assert inputs.edits() == [
            "params.yaml: loss.recon was 10.0, is 20.0",
            "params.yaml: scales.embedded.optim.muon_lr was 0.005, is 0.1",
        ]

    def test_code_that_is_changed_added_or_deleted_is_one_and_other_code_is_none(
        self, copy: Project, inputs: RecordedInputs
    ) -> None:
        code = copy.root / "taehv/training"
        (copy.root / "taehv/cli.py").write_text("")
        assert inputs.edits() == []
        (code / "schedule.py").write_text("")
        (code / "new.py").write_text("")
        (code / "muon.py").unlink()
        assert inputs.edits() == [f"taehv/training/{name} changed" for name in ("muon.py", "new.py", "schedule.py")]

    def test_a_params_file_that_cannot_be_read_any_more_is_one(self, copy: Project, inputs: RecordedInputs) -> None:
        (copy.root / "params.yaml").write_text("seed: [")
        with pytest.raises(
            UserError, match="edited while a800_test ran.*params.yaml is not usable .*not valid YAML.*and then this"
        ):
            inputs.refuse_edits("and then this")


@pytest.mark.slow
def test_an_edited_training_fails_is_kept_and_published_when_the_old_state_is_back(
    tiny_project: Project, tmp_path: Path
) -> None:
    """Parameters and code are edited while the trainer is held; DVC must not record either."""
    project, hold = tiny_project, Hold(tmp_path / "go-on")
    dvc = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "a800_test"],
        cwd=project.root,
        env=project.environment(hold.at(Failpoint.STEP)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    hold.wait()
    code = project.root / "taehv/training/schedule.py"
    as_it_was = (project.root / "params.yaml").read_text()
    project.change_params({"loss": {"recon": 20.0}})
    code.write_text(code.read_text() + "\n# edited\n")
    hold.release()
    output, _ = dvc.communicate()
    edits = "params.yaml: loss.recon was 10.0, is 20.0; taehv/training/schedule.py changed"
    assert dvc.returncode == FAILED_STAGE, output
    assert f"WARNING: edited while a800_test runs, which goes on with what it started with: {edits}" in output
    assert output.index("WARNING: edited while") < output.index("step     24"), "at the next validation"
    assert output.count("WARNING: edited while") == 1
    assert f"error: edited while a800_test ran, and not what it used: {edits}" in output
    assert "Traceback" not in output
    assert "a800_test" not in locked_stages(project)
    assert not (project.root / "runs/a800_test/metrics.json").exists()
    (run,) = tracked(project, "a800_test")
    assert (run.info.status, run.data.tags["edited_while_running"]) == ("FINISHED", edits)
    assert run.data.params["loss.recon"] == "10.0", "what was used"

    (project.root / "params.yaml").write_text(as_it_was)
    refused = project.run("stages.a800_test", check=False)
    assert refused.returncode == 1
    assert "was never published, made by other code" in refused.stderr and "Traceback" not in refused.stderr

    project.git("stash")
    again = project.run("dvc", "repro", "a800_test")
    assert "PUBLISHED AGAIN, nothing is trained" in again.stdout
    assert "a800_test" in locked_stages(project)
    assert len(tracked(project, "a800_test")) == 1
    assert project.json("runs/a800_test/metrics.json").keys() == {"psnr", "ssim", "step"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "edit", "named"),
    [
        pytest.param(
            "prepare_data", {"data": {"limits": {"frames": 9000}}}, "data.limits.frames", marks=pytest.mark.soak
        ),
        ("gate_psnr", {"gate": {"min_psnr_db": 4.5}}, "gate.min_psnr_db"),
        pytest.param(
            "evaluate", {"evaluate": {"parity_fail_db": 9.0}}, "evaluate.parity_fail_db", marks=pytest.mark.soak
        ),
    ],
)
def test_a_stage_of_a_minute_that_was_edited_fails_and_registers_nothing(
    finished: Project, tmp_path: Path, stage: str, edit: dict[str, Any], named: str
) -> None:
    project, hold = finished.copy(tmp_path / "project"), Hold(tmp_path / "go-on")
    process = subprocess.Popen(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=project.root,
        env=project.environment(hold.at(Failpoint.EDITS)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    hold.wait()
    project.change_params(edit)
    hold.release()
    _, errors = process.communicate()
    assert process.returncode == 1, errors
    assert f"error: edited while {stage} ran, and not what it used: params.yaml: {named} was" in errors
    assert "Run the same command again" in errors and "Traceback" not in errors
    newest = tracked(project, stage)[0]
    assert newest.info.status == "FAILED"
    assert "edited while" in newest.data.tags["failure_reason"]
    assert "registered_as" not in newest.data.tags
