"""A whole journal is sent again, because nobody noted that it had arrived: the store has everything once."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from safetensors.torch import save_file
from support.mlflow_servers import MlflowServer, free_port
from support.postgresql import postgresql
from support.project import REPOSITORY
from support.tracked_runs import runs, sqlite

from taehv.config.params import load_params
from taehv.config.profiles import load_profile
from taehv.evaluation.run_records import TrackingIds
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS
from taehv.tracking.run import stage_run
from taehv.tracking.sync import journals, sync

pytestmark = pytest.mark.slow

PARAMS = load_params(REPOSITORY / "params.yaml")
PROFILE = load_profile("local", REPOSITORY / "profiles")


@pytest.fixture(params=["sqlite", "server", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield sqlite(tmp_path)
    elif request.param == "postgresql":
        with postgresql() as database:
            yield database
    else:
        server = MlflowServer(tmp_path)
        server.start()
        try:
            yield server.uri
        finally:
            server.kill()


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journals of a training and of its evaluation, which met no server."""
    monkeypatch.setenv("TAEHV_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("TAEHV_TRACKING_DRAIN_SECONDS", "0")
    best_model, dataset = tmp_path / "best_model", tmp_path / "dataset.json"
    best_model.mkdir()
    save_file(
        create_model(VARIANTS["hunyuan_video"], 1 / 16, "torch_default", seed=5).state_dict(),
        best_model / "model.safetensors",
    )
    info = {"schema": 1, "variant": "hunyuan_video", "width": 1 / 16, "step": 3, "time": "2026-01-01T00:00:00+00:00"}
    (best_model / "model_info.json").write_text(json.dumps(info))
    dataset.write_text(json.dumps({"dataset_sha256": "ab" * 32, "teacher_sha256": "t", "split_rule": "by time"}))
    with stage_run("a800_test", PARAMS, PROFILE) as trained:
        trained.dataset(dataset, "training")
        for step in range(4):
            trained.metrics(step, {"train/loss": 1 / (step + 3), "val/psnr": math.nan if step == 1 else 20.0 + step})
        trained.artifact(dataset)
        trained.model(best_model, metrics={"step": 3, "psnr_db": 23.0})
    with stage_run("evaluate", PARAMS, PROFILE) as evaluated:
        evaluated.dataset(dataset, "test")
        ids = TrackingIds(None, None, trained.key)
        evaluated.model_metrics(ids, 3, {"test/psnr_db": 22.5})
        evaluated.register(ids, "h100-passed", tags={"test_psnr_db": "22.5"}, reason="passed")


def test_everything_is_there_once(store: str, left: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    shutil.copytree(tmp_path / ".work", tmp_path / "kept")
    said: list[str] = []
    assert sync(journals(), said.append), said
    first = content(store)
    assert len(first["runs"]) == 2 and len(first["models"]) == 1 and len(first["versions"]) == 1
    assert len(first["points"]["val/psnr"]) == 4
    assert {key for key, *_ in first["models"][0]} >= {"best/psnr_db", "test/psnr_db", "val/psnr"}
    for folder in (tmp_path / "kept").rglob("*"):
        assert folder.name != "sent.json", "nothing says what has arrived"
    shutil.rmtree(tmp_path / ".work")
    shutil.copytree(tmp_path / "kept", tmp_path / ".work")
    assert sync(journals(), said.append), said
    assert content(store) == first


def content(uri: str) -> dict[str, Any]:
    client = MlflowClient(uri)
    found = runs(uri)
    keys = {key for run in found for key in run.data.metrics}
    models = client.search_logged_models([found[0].info.experiment_id])
    return {
        "runs": [(run.info.run_id, run.info.status, run.data.params) for run in found],
        "inputs": [len(run.inputs.dataset_inputs) for run in found if run.inputs],
        "points": {
            key: sorted(
                (run.info.run_id, point.step, point.timestamp, repr(point.value))
                for run in found
                for point in client.get_metric_history(run.info.run_id, key)
            )
            for key in keys
        },
        "models": [
            sorted((m.key, m.step, m.timestamp, repr(m.value), m.dataset_digest) for m in full.metrics or [])
            for full in (client.get_logged_model(model.model_id) for model in models)
        ],
        "versions": [(version.name, version.version) for version in client.search_model_versions()],
        "files": [[item.path for item in client.list_artifacts(run.info.run_id)] for run in found],
    }
