"""The logged model takes and gives video of any size, in Python and over HTTP, without pickled code."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from safetensors.torch import save_file
from support.mlflow_servers import free_port, wait_until
from support.project import REPOSITORY
from support.tracked_runs import PATIENCE_S

from taehv.config.params import load_params
from taehv.config.profiles import load_profile
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS
from taehv.tracking.run import stage_run
from taehv.tracking.store import tracking_uri

MODEL = create_model(VARIANTS["hunyuan_video"], 1 / 16, "torch_default", seed=5).eval()
NAME = "taehv-hunyuan_video-embedded"
DATASET = {
    "schema": 1,
    "dataset_sha256": "ab" * 32,
    "teacher_sha256": "cd" * 32,
    "split_rule": "by time",
    "bytes": 1,
    "splits": {"test": {"clips": 6}},
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("main-repository")


@pytest.fixture(scope="module")
def model_id(root: Path) -> Iterator[str]:
    """A trained model with its gate and its evaluation, as the stages track them."""
    folder = root / "best_model"
    folder.mkdir()
    save_file(MODEL.state_dict(), folder / "model.safetensors")
    (folder / "model_info.json").write_text(json.dumps({"variant": "hunyuan_video", "width": 1 / 16, "step": 1000}))
    dataset = root / "dataset.json"
    dataset.write_text(json.dumps(DATASET))
    params, profile = load_params(REPOSITORY / "params.yaml"), load_profile("local", REPOSITORY / "profiles")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAEHV_ROOT", str(root))
        patch.setenv("TAEHV_TRACKING_DRAIN_SECONDS", str(PATIENCE_S))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with stage_run("a800_test", params, profile) as trained:
            trained.dataset(dataset)
            trained.metrics(750, {"val/psnr": 25.0})
            trained.metrics(1000, {"val/psnr": 26.0, "val/ssim": 0.8})
            trained.model(folder, metrics={"step": 1000, "psnr_db": 26.0})
            # What is sent is what the model was when it was logged.
            (folder / "model.safetensors").write_bytes(b"")
            ids = trained.ids()
        with stage_run("gate_psnr", params, profile) as judging:
            judging.link("judged", ids)
            judging.register(ids, "a800-passed", tags={"val_psnr_db": "26.0"}, reason="26 dB at step 1000")
        with stage_run("evaluate", params, profile) as evaluating:
            evaluating.dataset(dataset, "test")
            evaluating.model_metrics(ids, 1000, {"test/round_trip/psnr_db": 27.5})
        assert judging.complete and evaluating.complete
        mlflow.set_tracking_uri(tracking_uri())
        yield str(ids.model_id)


@pytest.fixture(scope="module")
def model(model_id: str) -> Any:
    return mlflow.pyfunc.load_model(f"models:/{model_id}")


def a_video(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


@pytest.mark.parametrize("shape", [(1, 9, 3, 16, 24), (2, 5, 3, 32, 16)])
def test_it_gives_what_the_plain_model_gives(model: Any, shape: tuple[int, ...]) -> None:
    video = a_video(shape)
    with torch.inference_mode():
        direct = MODEL.decode(MODEL.encode(torch.from_numpy(video))).clamp(0, 1).numpy()
    np.testing.assert_allclose(model.predict(video), direct, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 3, 8, 8), (1, 12, 3, 19, 30), (3, 40, 3, 8, 17)])
def test_a_reconstruction_has_the_videos_own_length_size_and_number_type(model: Any, shape: tuple[int, ...]) -> None:
    floats = a_video(shape)
    pixels = (floats * 255).round().astype(np.uint8)
    as_floats, as_bytes = model.predict(pixels / np.float32(255)), model.predict(pixels)
    assert (as_floats.shape, as_floats.dtype) == (shape, np.float32)
    assert (as_bytes.shape, as_bytes.dtype) == (shape, np.uint8)
    np.testing.assert_array_equal(as_bytes, (as_floats * 255).round().astype(np.uint8))


def test_latents_are_floats_and_decode_to_the_reconstruction(model: Any) -> None:
    video = a_video((2, 10, 3, 20, 24))
    latents = model.predict(video, params={"task": "encode"})
    assert (latents.shape, latents.dtype) == ((2, 4, 16, 3, 3), np.float32)
    decoded = model.predict(latents, params={"task": "decode"})
    assert (decoded.shape, decoded.dtype) == ((2, 13, 3, 24, 24), np.float32)
    np.testing.assert_array_equal(decoded[:, :10, :, :20], model.predict(video))
    as_bytes = model.predict(latents, params={"task": "decode", "pixels": "uint8"})
    np.testing.assert_array_equal(as_bytes, (decoded * 255).round().astype(np.uint8))


@pytest.mark.parametrize(
    ("given", "params", "message"),
    [
        (np.zeros((5, 3, 16, 16), np.uint8), {}, "expected a video (N, T, 3, H, W), got (5, 3, 16, 16)"),
        (np.zeros((1, 5, 16, 16, 3), np.uint8), {}, "expected a video (N, T, 3, H, W), got (1, 5, 16, 16, 3)"),
        (np.full((1, 5, 3, 16, 16), 200.0), {}, "floats are pixels in [0, 1], got 200..200"),
        (np.full((1, 5, 3, 16, 16), np.nan), {}, "floats are pixels in [0, 1]"),
        (np.full((1, 5, 3, 16, 16), 256), {}, "integers are pixels in 0..255, got 256..256"),
        (np.zeros((1, 5, 3, 16, 16), np.uint8), {"task": "shrink"}, "task must be one of encode, decode, reconstruct"),
        (np.zeros((1, 5, 3, 16, 16), np.uint8), {"pixels": "int8"}, "pixels must be one of same, uint8, float32"),
        (np.zeros((1, 2, 3, 2, 2), np.float32), {"task": "decode"}, "expected latents of hunyuan_video (N, T, 16,"),
        (np.array(["a video"]), {}, "expected an array of numbers"),
    ],
)
def test_what_it_cannot_code_is_refused_with_the_reason(
    model: Any, given: NDArray[Any], params: dict[str, str], message: str
) -> None:
    with pytest.raises(MlflowException, match=re.escape(message)):
        model.predict(given, params=params)


def test_its_signature_lets_every_array_pass_and_names_the_params(model: Any) -> None:
    for schema in (model.metadata.signature.inputs, model.metadata.signature.outputs):
        assert [(spec.type, spec.shape) for spec in schema.inputs] == [(np.dtype(object), (-1,))]
    params = {param.name: param.default for param in model.metadata.signature.params}
    assert params == {"task": "reconstruct", "pixels": "same"}
    assert "(N, T, 3, H, W)" in model.metadata.metadata["input"]
    assert model.input_example.shape == (1, 5, 3, 16, 16)


def test_it_says_what_it_needs(model_id: str) -> None:
    requirements = Path(mlflow.artifacts.download_artifacts(f"models:/{model_id}")) / "requirements.txt"
    wanted = [line.partition("==") for line in requirements.read_text().splitlines()]
    assert {name: version for name, _, version in wanted} == {
        name: importlib.metadata.version(name) for name in ("mlflow", "numpy", "safetensors", "torch")
    }


def test_its_metrics_have_their_step_and_their_dataset(model_id: str) -> None:
    logged = mlflow.get_logged_model(model_id)
    found = {metric.key: (metric.value, metric.step, metric.dataset_digest) for metric in logged.metrics or []}
    digest = "ab" * 16
    assert found == {
        "val/psnr": (26.0, 1000, digest),
        "val/ssim": (0.8, 1000, digest),
        "best/step": (1000.0, 1000, digest),
        "best/psnr_db": (26.0, 1000, digest),
        "test/round_trip/psnr_db": (27.5, 1000, digest),
    }
    assert logged.params["loss.recon"] == "10.0"
    assert {"stage": "a800_test", "variant": "hunyuan_video", "step": "1000"}.items() <= logged.tags.items()


def test_models_are_found_by_what_they_can(model_id: str) -> None:
    client = mlflow.MlflowClient(tracking_uri())
    experiment = client.get_logged_model(model_id).experiment_id
    found = client.search_logged_models([experiment], "metrics.`test/round_trip/psnr_db` > 27")
    assert [item.model_id for item in found] == [model_id]


def test_the_training_run_shows_each_number_once_and_the_evaluation_has_the_model_as_its_input(model_id: str) -> None:
    client = mlflow.MlflowClient(tracking_uri())
    training = client.get_run(str(client.get_logged_model(model_id).source_run_id))
    for key, points in {"val/psnr": [(750, 25.0), (1000, 26.0)], "test/round_trip/psnr_db": [(1000, 27.5)]}.items():
        history = client.get_metric_history(training.info.run_id, key)
        assert [(point.step, point.value) for point in history] == points
    assert training.inputs and training.outputs
    assert [(output.model_id, output.step) for output in training.outputs.model_outputs] == [(model_id, 1000)]
    (found,) = client.search_runs([training.info.experiment_id], "tags.stage = 'evaluate'")
    evaluating = client.get_run(found.info.run_id)  # a search leaves the models out
    assert evaluating.inputs is not None
    assert [known.model_id for known in evaluating.inputs.model_inputs] == [model_id]
    contexts = [inputs.dataset_inputs[0].tags[0].value for inputs in (training.inputs, evaluating.inputs)]
    assert contexts == ["training", "test"]


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


def test_it_needs_nothing_but_its_requirements(model_id: str) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{model_id}"))
    absent = ("accelerate", "av", "dvc", "pynvml", "tqdm", "lpips", "torchvision", "pytorch_msssim")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r})); sys.path.insert(0, 'code')\n"
        "from taehv.tracking.served_model import _load_pyfunc; _load_pyfunc('data/best_model')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True)


def test_it_is_registered_under_its_alias(model_id: str) -> None:
    client = mlflow.MlflowClient(tracking_uri())
    version = client.get_model_version_by_alias(NAME, "a800-passed")
    assert version.source == f"models:/{model_id}"
    assert version.description == "a800-passed: 26 dB at step 1000"
    assert version.tags["val_psnr_db"] == "26.0"
    linked = json.loads(client.get_logged_model(model_id).tags["mlflow.modelVersions"])
    assert linked == [{"name": version.name, "version": version.version}]


@pytest.fixture(scope="module")
def server(model_id: str, root: Path) -> Iterator[str]:
    """`mlflow models serve` of the registered model, by its alias."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--host", "127.0.0.1"]
    command += ["-m", f"models:/{NAME}@a800-passed", "--port", str(port)]
    with (root / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=root,
            env={**os.environ, "MLFLOW_TRACKING_URI": tracking_uri()},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    uri = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return bool(urllib.request.urlopen(f"{uri}/ping", timeout=5).status == 200)
        return False

    try:
        wait_until(answers, process)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(server: str, **request: Any) -> Any:
    """The server's answer to a scoring request."""
    body = json.dumps(request).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{server}/invocations", body, headers), timeout=300) as answer:
        return json.loads(answer.read())


def test_a_served_model_answers_for_bytes_and_for_floats(server: str, model: Any) -> None:
    floats = a_video((1, 5, 3, 12, 16))
    pixels = (floats * 255).round().astype(np.uint8)
    for video in (floats, pixels):
        answer = np.array(ask(server, inputs=video.tolist())["predictions"])
        assert answer.dtype.kind == ("i" if video.dtype == np.uint8 else "f")
        np.testing.assert_allclose(answer, model.predict(video), atol=1e-6)
    latents = ask(server, inputs=pixels.tolist(), params={"task": "encode"})["predictions"]
    decoded = ask(server, instances=latents, params={"task": "decode", "pixels": "uint8"})["predictions"]
    np.testing.assert_allclose(np.array(decoded)[:, :5, :, :12], model.predict(pixels), atol=1)


def test_a_served_model_says_what_is_wrong_with_a_request(server: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(server, inputs=np.full((1, 5, 3, 16, 16), 7.5).tolist())
    assert refused.value.code == 400
    assert "floats are pixels in [0, 1], got 7.5..7.5" in json.loads(refused.value.read())["message"]
