"""Damaged journals, and models that a dead server never saw."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from safetensors.torch import save_file
from support.journal_damage import mutate
from support.mlflow_servers import free_port
from support.project import REPOSITORY
from support.tracked_runs import runs, sqlite

from taehv.config.params import load_params
from taehv.config.profiles import load_profile
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS
from taehv.tracking.journal import read_lines
from taehv.tracking.run import stage_run
from taehv.tracking.sync import journals, sync

pytestmark = pytest.mark.slow

PARAMS = load_params(REPOSITORY / "params.yaml")
PROFILE = load_profile("local", REPOSITORY / "profiles")
LOOKS = 3000
VALUES: dict[str, Callable[[int], float]] = {
    "train/loss": lambda step: 1 / (step + 1),
    "val/psnr": lambda step: 20.0 + step,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all tests of this module: creating one takes seconds."""
    return tmp_path_factory.mktemp("main-repository")


@pytest.fixture(autouse=True)
def environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAEHV_ROOT", str(root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("TAEHV_TRACKING_DRAIN_SECONDS", "0")


@pytest.fixture
def dead_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")


@pytest.fixture(scope="module")
def unsent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves that met no server."""
    root = tmp_path_factory.mktemp("unsent")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAEHV_ROOT", str(root))
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
        patch.setenv("TAEHV_TRACKING_DRAIN_SECONDS", "0")
        with stage_run("evaluate", PARAMS, PROFILE) as run:
            for step in range(12):
                run.metrics(step, {key: value(step) for key, value in VALUES.items()})
            report = root / "report.json"
            report.write_text("{}")
            run.artifact(report)
            report.unlink()
    (left,) = root.glob(".work/evaluate/unsent-*")
    return left


@pytest.mark.parametrize("seed", [*range(10), *(pytest.param(s, marks=pytest.mark.soak) for s in range(10, 240))])
def test_a_damaged_journal_is_sent_as_far_as_it_can_be_read_and_named(seed: int, root: Path, unsent: Path) -> None:
    folder = root / f".work/evaluate/unsent-{seed}"
    shutil.copytree(unsent, folder)
    journal = folder / "journal.jsonl"
    journal.write_bytes(mutate(journal.read_bytes(), random.Random(seed)))
    readable = [line.event for line in read_lines(journal) if line.event is not None]
    wanted = {(key, e["step"]): value for e in readable if e["kind"] == "metrics" for key, value in e["values"].items()}
    assert all(value == VALUES[key](step) for (key, step), value in wanted.items())
    (left,) = journals()
    said: list[str] = []
    sync([left], said.append)
    assert said
    if left.losses:
        assert any("damaged" in line or "missing" in line or "readable" in line for line in said)
        assert folder.exists()
    assert points(root, bool(readable)) == wanted
    # Once more changes nothing.
    sync(journals(), said.append)
    assert points(root, bool(readable)) == wanted
    # All of these journals are of one run; the next one must not find it.
    for run in runs(sqlite(root)):
        MlflowClient(sqlite(root)).delete_run(run.info.run_id)
    shutil.rmtree(folder, ignore_errors=True)


def points(root: Path, there_is_a_run: bool) -> dict[tuple[str, int], float]:
    """Of the only run, by metric and step; each must be there once."""
    if not there_is_a_run:
        assert not (root / "mlflow.db").exists() or runs(sqlite(root)) == []
        return {}
    (run,) = runs(sqlite(root))
    histories = [MlflowClient(sqlite(root)).get_metric_history(run.info.run_id, key) for key in VALUES]
    found = [point for history in histories for point in history]
    assert len({(point.key, point.step) for point in found}) == len(found)
    return {(point.key, point.step): point.value for point in found}


def test_a_journal_that_another_sync_has_sent_meanwhile_does_not_hold_up_the_others(root: Path, unsent: Path) -> None:
    for name in ("unsent-1", "unsent-2"):
        shutil.copytree(unsent, root / ".work/evaluate" / name)
    said = list[str]()
    first, second = journals()
    assert sync([first], said.append)
    # The other sync looked before the first one had sent anything.
    assert sync([first, second], said.append), said
    assert "is gone" in said[-2]
    assert "the journal is deleted" in said[-1]
    assert journals() == []


def test_journals_that_come_and_go_meanwhile_are_left_out(root: Path, unsent: Path, tmp_path: Path) -> None:
    folder, going_on = root / ".work/evaluate/unsent-1", tmp_path / "going-on"
    folder.parent.mkdir(parents=True, exist_ok=True)
    going_on.touch()
    come_and_go = 'while [ -e "$2" ]; do cp -r "$0" "$1"; rm -r "$1"; done'
    with subprocess.Popen(["bash", "-c", come_and_go, unsent, folder, going_on]):
        try:
            found = {len(journals()) for _ in range(LOOKS)}
        finally:
            going_on.unlink()
    assert found <= {0, 1}
    assert journals() == []


def test_a_model_that_no_server_saw_is_logged_linked_and_registered_by_sync(
    root: Path, tmp_path: Path, dead_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = tmp_path / "best_model"
    best.mkdir()
    model = create_model(VARIANTS["hunyuan_video"], 1 / 16, "torch_default", seed=5)
    save_file(model.state_dict(), best / "model.safetensors")
    (best / "model_info.json").write_text(json.dumps({"variant": "hunyuan_video", "width": 1 / 16}))
    with stage_run("a800_test", PARAMS, PROFILE, folder=tmp_path / "tracking") as trained:
        trained.model(best, metrics={"step": 1000, "psnr_db": 26.0})
        ids = trained.ids()
    assert (ids.run_id, ids.model_id) == (None, None)
    assert not (tmp_path / "tracking").exists()
    with stage_run("gate_psnr", PARAMS, PROFILE) as judging:
        judging.link("judged", ids)
        judging.register(ids, "a800-passed", tags={"val_psnr_db": "26.0"}, reason="passed")
        judging.promote(ids, tags={"test_psnr_db": "27.0"})
    shutil.rmtree(best)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")

    later, said = journals(), list[str]()
    assert [left.stage for left in later] == ["a800_test", "gate_psnr"]
    # The gate's journal alone has to wait for the model.
    assert not sync(later[1:], said.append)
    assert "waiting for the run" in said[-1]
    assert sync(later, said.append), said

    client = MlflowClient(sqlite(root))
    training, gate = (
        next(run for run in runs(sqlite(root)) if run.data.tags["taehv.key"] == key)
        for key in (trained.key, judging.key)
    )
    assert {training.info.status, gate.info.status} == {"FINISHED"}
    version = client.get_model_version_by_alias("taehv-hunyuan_video-embedded", "a800-passed")
    assert version.source == f"models:/{gate.data.tags['judged.model_id']}"
    assert gate.data.tags["judged.run_id"] == training.info.run_id
    assert gate.data.tags["champion"].startswith("the first: test PSNR 27.00 dB")
    assert client.get_model_version_by_alias(version.name, "champion").version == version.version
    assert training.data.metrics["best/psnr_db"] == 26.0
    assert journals() == []
