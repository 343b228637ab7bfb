"""What a run says a second time, after a crash or because someone asks again, is in the store once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from safetensors.torch import save_file
from support.mlflow_servers import free_port, wait_until
from support.project import REPOSITORY
from support.tracked_runs import runs, sqlite, start, steps

from taehv.config.params import load_params
from taehv.config.profiles import load_profile
from taehv.evaluation.run_records import TrackingIds
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS
from taehv.tracking.journal import read_lines
from taehv.tracking.run import stage_run
from taehv.tracking.send_state import is_still_to_come
from taehv.tracking.sync import journals, sync

pytestmark = pytest.mark.slow

PARAMS = load_params(REPOSITORY / "params.yaml")
PROFILE = load_profile("local", REPOSITORY / "profiles")
VIDEOS = ("视频.mp4", "影片.mp4", "x" * 300 + ".mp4")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all tests of this module: creating one takes seconds."""
    return tmp_path_factory.mktemp("main-repository")


@pytest.fixture(scope="module")
def best_model(root: Path) -> Path:
    folder = root / "best_model"
    folder.mkdir()
    model = create_model(VARIANTS["hunyuan_video"], 1 / 16, "torch_default", seed=5)
    save_file(model.state_dict(), folder / "model.safetensors")
    write_info(folder, "2026-01-01T00:00:00+00:00")
    return folder


def write_info(best_model: Path, time: str) -> None:
    info = {"schema": 1, "variant": "hunyuan_video", "width": 1 / 16, "step": 10, "time": time}
    (best_model / "model_info.json").write_text(json.dumps(info))


@pytest.fixture
def nobody_answers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages leave everything to ``send_all``."""
    monkeypatch.setenv("TAEHV_ROOT", str(root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("TAEHV_TRACKING_DRAIN_SECONDS", "0")


def send_all(monkeypatch: pytest.MonkeyPatch) -> tuple[bool, list[str]]:
    """`taehv track sync` to the sqlite store."""
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI")
        return sync(journals(), said.append), said


@pytest.fixture
def trained(root: Path, best_model: Path, nobody_answers: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A training whose process is killed (-9) after its model was logged, and which then runs to its end; its key."""
    folder = root / ".work/a800_test/0123456789abcdef/tracking"
    away = {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}",
        "TAEHV_TRACKING_DRAIN_SECONDS": "0",
        "TRACKED_PROCESS_MODEL": str(best_model),
        "TRACKED_PROCESS_VIDEOS": json.dumps(VIDEOS),
    }

    def kinds() -> list[str]:
        lines = read_lines(folder / "journal.jsonl") if (folder / "journal.jsonl").exists() else ()
        return [line.event["kind"] for line in lines if line.event]

    killed = start(root, folder, 1, 10, "wait", **away)
    wait_until(lambda: "model" in kinds(), killed)
    killed.kill()
    killed.wait()
    # Training goes on from its last checkpoint, and writes its best model anew, at another time.
    write_info(best_model, "2026-01-01T01:00:00+00:00")
    again = start(root, folder, 8, 10, **away)
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    key = next(
        line.event["key"]
        for (unsent,) in [list(root.glob(".work/a800_test/unsent-*"))]
        for line in read_lines(unsent / "journal.jsonl")
        if line.event
    )
    assert is_still_to_come(key)
    arrived, said = send_all(monkeypatch)
    assert arrived, said
    yield key


def test_a_training_killed_after_it_logged_its_model_has_one_model_and_each_number_once(
    trained: str, root: Path
) -> None:
    uri = sqlite(root)
    client = MlflowClient(uri)
    (run,) = (run for run in runs(uri) if run.data.tags.get("taehv.key") == trained)
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    assert len(models) == 1
    outputs = client.get_run(run.info.run_id).outputs
    assert outputs is not None
    assert [output.model_id for output in outputs.model_outputs] == [models[0].model_id]
    for key in ("best/step", "best/psnr_db"):
        assert steps(uri, run.info.run_id, key) == {10: 1}
    # Each video has a metric of its own, and the model has all of them.
    own = [key for key in run.data.metrics if key.startswith("val/psnr/")]
    assert len(own) == len(VIDEOS)
    for key in own:
        assert steps(uri, run.info.run_id, key) == dict.fromkeys(range(1, 11), 1)
    measured = {metric.key for metric in client.get_logged_model(models[0].model_id).metrics or []}
    assert set(own) <= measured


def test_a_training_that_is_evaluated_again_has_each_number_once(
    trained: str, root: Path, nobody_answers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, ids = sqlite(root), TrackingIds(None, None, trained)
    for data, value in (("ab", 25.0), ("ab", 25.0), ("cd", 26.0)):
        dataset = tmp_path / "dataset.json"
        dataset.write_text(json.dumps({"dataset_sha256": data * 32, "teacher_sha256": "t", "split_rule": "by time"}))
        with stage_run("evaluate", PARAMS, PROFILE) as evaluated:
            evaluated.dataset(dataset, "test")
            evaluated.model_metrics(ids, 10, {"test/psnr_db": value})
            evaluated.register(ids, "h100-passed", tags={"test_psnr_db": str(value)}, reason="passed")
        arrived, said = send_all(monkeypatch)
        assert arrived, said
    (run,) = (run for run in runs(uri) if run.data.tags.get("taehv.key") == trained)
    points = MlflowClient(uri).get_metric_history(run.info.run_id, "test/psnr_db")
    # Measured on other clips it is another number, of another dataset.
    assert [(point.step, point.value) for point in points] == [(10, 25.0), (10, 26.0)]
    (last,) = (run for run in runs(uri) if run.data.tags.get("taehv.key") == evaluated.key)
    assert last.data.tags["registered_as"] == "taehv-hunyuan_video-embedded@h100-passed"


def test_a_run_that_this_store_does_not_have_is_named_and_no_tag_claims_success(
    root: Path, nobody_answers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = TrackingIds("0" * 32, "m-" + "0" * 32, "a-key-of-another-machine")
    with stage_run("gate_psnr", PARAMS, PROFILE) as judged:
        judged.link("judged", elsewhere)
        judged.register(elsewhere, "a800-passed", tags={}, reason="passed")
        judged.promote(elsewhere, tags={"test_psnr_db": "99"})
        judged.tags({"note": "bad name \udcff\0"})
    for _ in range(2):
        arrived, said = send_all(monkeypatch)
        assert not arrived
        assert "the run with taehv.key a-key-of-another-machine is not in this store" in said[-1]
        assert sum("set aside" in line for line in said) <= 3
    (run,) = (run for run in runs(sqlite(root)) if run.data.tags.get("taehv.key") == judged.key)
    assert run.info.status == "FINISHED"
    assert run.data.tags["note"] == "bad name \\udcff\\x00"
    assert not {"judged.run_id", "registered_as", "champion"} & run.data.tags.keys()
    for left in journals():
        shutil.rmtree(left.folder.root)
