"""The logged model takes and gives video of any size, without pickled code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tracked_runs import PATIENCE_S

from taehv.model.init import create_model
from taehv.model.variants import VARIANTS
from taehv.params import load_params
from taehv.profiles import load_profile
from taehv.tracking import stage_run
from taehv.tracking.store import tracking_uri

REPOSITORY = Path(__file__).parents[2]
MODEL = create_model(VARIANTS["hunyuan_video"], 1 / 16, "torch_default", seed=5).eval()


@pytest.fixture(scope="module")
def model_id(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("main-repository")
    folder = root / "best_model"
    folder.mkdir()
    save_file(MODEL.state_dict(), folder / "model.safetensors")
    (folder / "model_info.json").write_text(json.dumps({"variant": "hunyuan_video", "width": 1 / 16}))
    params, profile = load_params(REPOSITORY / "params.yaml"), load_profile("local", REPOSITORY / "profiles")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        patch.setenv("TAEHV_TRACKING_DRAIN_SECONDS", str(PATIENCE_S))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with stage_run("a800_test", params, profile) as trained:
            trained.model(folder, metrics={"step": 1000, "psnr_db": 26.0})
            # What is sent is what the model was when it was logged.
            (folder / "model.safetensors").write_bytes(b"")
            ids = trained.ids()
        with stage_run("gate_psnr", params, profile) as judging:
            judging.link("judged", ids)
            judging.register(ids, "a800-passed")
        assert judging.complete
        mlflow.set_tracking_uri(tracking_uri())
        yield str(ids.model_id)


@pytest.mark.parametrize("shape", [(1, 9, 3, 16, 24), (2, 5, 3, 32, 16)])
def test_it_reconstructs_any_number_of_frames_and_any_size(model_id: str, shape: tuple[int, ...]) -> None:
    video = np.random.default_rng(0).random(shape, dtype=np.float32)
    served = mlflow.pyfunc.load_model(f"models:/{model_id}").predict(video)
    with torch.inference_mode():
        direct = MODEL.decode(MODEL.encode(torch.from_numpy(video))).clamp(0, 1).numpy()
    np.testing.assert_array_equal(served, direct)


def test_its_signature_leaves_clips_frames_and_size_free(model_id: str) -> None:
    signature = mlflow.models.get_model_info(f"models:/{model_id}").signature
    assert signature.inputs.inputs[0].shape == (-1, -1, 3, -1, -1)


def test_nothing_in_it_is_pickled(model_id: str) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{model_id}"))
    names = {path.name for path in folder.rglob("*")}
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth"))]


def test_it_brings_its_own_code(model_id: str, tmp_path: Path) -> None:
    folder = mlflow.artifacts.download_artifacts(f"models:/{model_id}", dst_path=str(tmp_path))
    script = "import sys, mlflow; mlflow.pyfunc.load_model(sys.argv[1]); import taehv; print(taehv.__file__)"
    printed = subprocess.run(
        [sys.executable, "-c", script, folder], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert str(tmp_path) in printed.stdout


def test_it_is_registered_under_its_alias(model_id: str) -> None:
    client = mlflow.MlflowClient(tracking_uri())
    version = client.get_model_version_by_alias("taehv-hunyuan_video-embedded", "a800-passed")
    assert version.source == f"models:/{model_id}"
    linked = json.loads(client.get_logged_model(model_id).tags["mlflow.modelVersions"])
    assert linked == [{"name": version.name, "version": version.version}]
