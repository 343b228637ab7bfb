"""From one machine to another: git, DVC's remote, and a tracking store on each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from support.project import Project
from support.tracked_runs import sqlite

pytestmark = pytest.mark.slow

NAME = "taehv-hunyuan_video-embedded"
SCORE = "test/round_trip/psnr_db"


def newest(project: Project, stage: str) -> Run:
    client = MlflowClient(sqlite(project.root))
    experiment = client.get_experiment_by_name("taehv")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.stage = '{stage}'", order_by=["start_time DESC"])
    return client.get_run(found[0].info.run_id)


def holder(project: Project, alias: str) -> str | None:
    """The run that trained the model with this alias."""
    client = MlflowClient(sqlite(project.root))
    version = client.get_model_version_by_alias(NAME, alias)
    return client.get_logged_model(str(version.source).removeprefix("models:/")).source_run_id


def test_a_pipeline_goes_on_with_another_machine_and_its_own_store_and_nothing_is_lost(
    finished: Project, tmp_path: Path
) -> None:
    here = finished.copy(tmp_path / "here")
    here.run("dvc", "remote", "add", "-d", "storage", str(tmp_path / "storage"))
    here.commit("remote")
    here.run("dvc", "push")
    tested, judged = (newest(here, stage).info.run_id for stage in ("a800_test", "gate_psnr"))
    bundle = str(tmp_path / "runs.tar")
    here.run("taehv.cli", "track", "export", bundle, "--run", tested, "--run", judged)

    here.git("clone", "-q", str(here.root), str(tmp_path / "there"))
    there = Project(tmp_path / "there")
    there.run("dvc", "pull")
    there.run("dvc", "repro", "-f", "-s", "h100_train")
    evaluated = there.run("dvc", "repro", "-f", "-s", "evaluate")
    assert "is not in this store; bring it with taehv track export" in evaluated.stderr + evaluated.stdout
    # What is this machine's own is complete; what is about the other's run is set aside, and no tag says otherwise.
    trained, evaluation = newest(there, "h100_train"), newest(there, "evaluate")
    assert evaluation.info.status == "FINISHED"
    assert evaluation.data.tags["h100_train.run_id"] == trained.info.run_id
    assert "a800_test.run_id" not in evaluation.data.tags
    assert evaluation.data.tags["registered_as"] == f"{NAME}@h100-passed"
    assert holder(there, "h100-passed") == holder(there, "champion") == trained.info.run_id
    assert SCORE in trained.data.metrics
    waiting = there.run("taehv.cli", "track", "sync", check=False)
    assert waiting.returncode == 1, waiting.stdout
    assert "is not in this store" in waiting.stdout

    there.run("taehv.cli", "track", "import", bundle)
    sent = there.run("taehv.cli", "track", "sync")
    assert "everything has arrived" in sent.stdout
    assert "nothing is left to send" in there.run("taehv.cli", "track", "sync").stdout
    client, brought = MlflowClient(sqlite(there.root)), newest(there, "a800_test")
    assert brought.info.run_id != tested
    assert brought.data.tags["taehv.imported_from"] == tested
    evaluation = newest(there, "evaluate")
    assert evaluation.data.tags["a800_test.run_id"] == brought.info.run_id
    assert (
        brought.data.metrics[SCORE]
        == there.json("reports/evaluation.json")["models"]["a800_test"]["round_trip"]["psnr_db"]
    )
    steps = Counter(point.step for point in client.get_metric_history(brought.info.run_id, SCORE))
    assert set(steps.values()) == {1}
    assert holder(there, "a800-passed") == brought.info.run_id
    assert holder(there, "h100-passed") == trained.info.run_id
    assert f"{tmp_path / 'there'}" in str(brought.info.artifact_uri)
    # The id that came along with DVC is understood, too.
    assert there.run("taehv.cli", "compare", tested, trained.info.run_id, check=False).returncode in (0, 1)

    # Judging or measuring again finds the same model under its new ids, and doubles nothing.
    there.run("dvc", "repro", "-f", "-s", "gate_psnr")
    there.run("dvc", "repro", "-f", "-s", "evaluate")
    assert newest(there, "gate_psnr").data.tags["judged.run_id"] == brought.info.run_id
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 2
    for run in (brought, trained):
        points = client.get_metric_history(run.info.run_id, SCORE)
        assert len({(point.step, point.value) for point in points}) == len(points)
    assert "nothing is left to send" in there.run("taehv.cli", "track", "sync").stdout


def test_a_moved_checkout_is_found_at_the_start_and_relocated(finished: Project, tmp_path: Path) -> None:
    old = finished.copy(tmp_path / "old")
    before = newest(old, "h100_train")
    (tmp_path / "new").mkdir()
    old.root.rename(tmp_path / "new/place")
    project = Project(tmp_path / "new/place")
    refused = project.run("stages.evaluate", check=False)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert str(tmp_path / "old") in refused.stderr
    assert str(project.root) in refused.stderr
    assert "taehv track relocate" in refused.stderr
    assert not (tmp_path / "old").exists()
    project.run("taehv.cli", "track", "relocate")
    project.run("stages.gate_psnr")
    assert not (tmp_path / "old").exists()
    after = newest(project, "h100_train")
    assert after.data.tags["taehv.key"] == before.data.tags["taehv.key"]
    assert after.data.metrics == before.data.metrics
    for alias in ("h100-passed", "champion"):
        assert holder(project, alias) == after.info.run_id
    client = MlflowClient(sqlite(project.root))
    assert client.list_artifacts(after.info.run_id)
    judged = newest(project, "gate_psnr")
    assert judged.data.tags["judged.run_id"] == newest(project, "a800_test").info.run_id
    for run in (after, judged):
        assert str(run.info.artifact_uri).startswith((project.root / "mlartifacts").as_uri())
    assert "nothing to do" in project.run("taehv.cli", "track", "relocate").stdout
    assert "nothing is left to send" in project.run("taehv.cli", "track", "sync").stdout


def test_a_copied_checkout_writes_nothing_into_its_original(finished: Project, tmp_path: Path) -> None:
    original = finished.copy(tmp_path / "original")
    before = files(original.root)
    copied = original.copy_as_it_is(tmp_path / "copy")
    for command in (("stages.prepare_data",), ("taehv.cli", "track", "sync"), ("taehv.cli", "track", "import", "x")):
        refused = copied.run(*command, check=False)
        assert refused.returncode == 1
        assert str(original.root) in refused.stderr, refused.stderr
        assert str(copied.root) in refused.stderr
    copied.run("taehv.cli", "track", "relocate")
    copied.run("stages.gate_psnr")
    assert files(original.root) == before
    assert str(newest(copied, "gate_psnr").info.artifact_uri).startswith((copied.root / "mlartifacts").as_uri())
    assert newest(copied, "a800_test").data.metrics == newest(original, "a800_test").data.metrics


def files(root: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}
