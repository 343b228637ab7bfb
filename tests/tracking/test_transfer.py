"""Runs move between stores without loss, and once."""

from __future__ import annotations

import json
import math
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from safetensors.torch import save_file
from support.mlflow_servers import MlflowServer, wait_until
from support.mutations import mutate
from support.postgresql import postgresql
from support.project import REPOSITORY, give_new_home
from support.tracked_runs import PATIENCE_S, sqlite, start_track, track

from taehv.cli import main
from taehv.config.params import load_params
from taehv.config.profiles import load_profile
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS
from taehv.tracking.run import stage_run
from taehv.tracking.store import open_store
from taehv.tracking.transfer.archive import ArchiveError, unpacked

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with no runs, to be copied: making its tables takes seconds."""
    root = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAEHV_ROOT", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_store("another")
    return root / "mlflow.db"


def copy_store(database: Path, root: Path) -> None:
    shutil.copyfile(database, root / "mlflow.db")
    give_new_home(root / "mlflow.db", database.parent, root)


@pytest.fixture(scope="module")
def source(empty: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pipeline's runs (a parent, a training with its model, an evaluation of it) and a stranger's run."""
    root = tmp_path_factory.mktemp("source")
    copy_store(empty, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAEHV_ROOT", str(root))
        patch.setenv("TAEHV_TRACKING_DRAIN_SECONDS", str(PATIENCE_S))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        fill(root, patch)
    yield root


def fill(root: Path, patch: pytest.MonkeyPatch) -> None:
    params, profile = load_params(REPOSITORY / "params.yaml"), load_profile("local", REPOSITORY / "profiles")
    folder, dataset = root / "best_model", root / "dataset.json"
    folder.mkdir()
    model = create_model(VARIANTS["hunyuan_video"], 1 / 16, "torch_default", seed=5)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "model_info.json").write_text(json.dumps({"variant": "hunyuan_video", "width": 1 / 16}))
    dataset.write_text(
        json.dumps({"dataset_sha256": "ab" * 32, "teacher_sha256": "t", "split_rule": "by time", "bytes": 1})
    )
    client = MlflowClient(sqlite(root))
    experiment = open_store()
    parent = client.create_run(experiment, run_name="pipeline")
    patch.setenv("MLFLOW_RUN_ID", parent.info.run_id)
    with stage_run("a800_test", params, profile) as trained:
        trained.dataset(dataset)
        for step in range(5):
            trained.metrics(step, {"train/loss": 1 / (step + 1), "val/psnr": 20.0 + step})
        trained.artifact(dataset, "data")
        trained.model(folder, metrics={"step": 4, "psnr_db": 24.0})
        ids = trained.ids()
    patch.setenv("MLFLOW_RUN_ID", parent.info.run_id)
    with stage_run("evaluate", params, profile) as evaluated:
        evaluated.dataset(dataset, "test")
        evaluated.link("a800_test", ids)
        evaluated.model_metrics(ids, 4, {"test/psnr_db": 25.0})
        evaluated.register(ids, "h100-passed", tags={"test_psnr_db": "25.0"}, reason="passed")
        evaluated.promote(ids, tags={"test_psnr_db": "25.0"})
        evaluated.fail("not good enough")
    client.set_terminated(parent.info.run_id, "FAILED")
    stranger = client.create_run("0", start_time=1_600_000_000_000, tags={"mlflow.user": "someone"}).info.run_id
    points = [(1.0, 5, 0), (2.0, 5, 0), (2.0, 6, 0), (math.nan, 7, -3), (1e300, 8, 2**40)]
    client.log_batch(stranger, metrics=[Metric("odd", *point) for point in points])
    client.log_batch(stranger, metrics=[Metric("many", number / 7, number, number) for number in range(1000)])
    client.log_batch(stranger, metrics=[Metric("many", number / 7, number, number) for number in range(1000, 1500)])
    client.log_text(stranger, "text", "a/b c/d.txt")
    client.set_terminated(stranger, "KILLED", 1_600_000_001_234)


Everything = dict[str, Any]


def everything(uri: str) -> Everything:
    """All that a store holds, with names in the place of ids."""
    client = MlflowClient(uri)
    experiments = {item.experiment_id: item.name for item in client.search_experiments()}
    runs = [client.get_run(run.info.run_id) for run in client.search_runs(list(experiments))]
    names = {run.info.run_id: run.info.run_name for run in runs}
    models = client.search_logged_models(list(experiments))
    names |= {model.model_id: f"model of {names[model.source_run_id]}" for model in models}
    return {
        "registry": sorted(registered(client, names)),
        "runs": sorted((describe(client, run, experiments, names) for run in runs), key=lambda run: str(run["name"])),
        "models": [
            {
                "name": model.name,
                "of": names[model.source_run_id],
                "type": model.model_type,
                "status": str(model.status),
                "params": model.params,
                "tags": without_own(model.tags, names),
                "metrics": sorted(
                    (m.key, m.value, m.timestamp, m.step, names[m.run_id], m.dataset_name, m.dataset_digest)
                    for m in client.get_logged_model(model.model_id).metrics or []
                ),
            }
            for model in models
        ],
    }


def registered(client: MlflowClient, names: dict[str, str]) -> Iterator[tuple[Any, ...]]:
    for model in client.search_registered_models():
        for version in client.search_model_versions(f"name = '{model.name}'"):
            aliases = sorted(alias for alias, number in model.aliases.items() if number == version.version)
            of = names[str(version.source).removeprefix("models:/")]
            yield model.name, int(version.version), of, version.description, sorted(version.tags.items()), aliases


def describe(client: MlflowClient, run: Run, experiments: dict[str, str], names: dict[str, str]) -> dict[str, Any]:
    inputs, outputs = run.inputs, run.outputs
    return {
        "name": run.info.run_name,
        "experiment": experiments[run.info.experiment_id],
        "status": run.info.status,
        "times": (run.info.start_time, run.info.end_time),
        "params": run.data.params,
        "tags": without_own(run.data.tags, names),
        "metrics": {
            key: sorted(
                (repr(point.value), point.timestamp, point.step)
                for point in client.get_metric_history(run.info.run_id, key)
            )
            for key in run.data.metrics
        },
        "files": sorted(files(client, run.info.run_id)),
        "datasets": [
            (item.dataset.to_dictionary(), [(tag.key, tag.value) for tag in item.tags])
            for item in (inputs.dataset_inputs if inputs else [])
        ],
        "models in": [names[item.model_id] for item in (inputs.model_inputs if inputs else [])],
        "models out": [(names[item.model_id], item.step) for item in (outputs.model_outputs if outputs else [])],
    }


def without_own(tags: dict[str, str], names: dict[str, str]) -> dict[str, Any]:
    kept: dict[str, Any] = {key: names.get(value, value) for key, value in tags.items() if key != "taehv.imported_from"}
    if versions := kept.get("mlflow.modelVersions"):
        # MLflow's own tag: the client adds the version as a number, and a server adds it as a string before that.
        kept["mlflow.modelVersions"] = {(it["name"], int(it["version"])) for it in json.loads(versions)}
    return kept


def files(client: MlflowClient, run_id: str, path: str | None = None) -> Iterator[tuple[str, int | None]]:
    for item in client.list_artifacts(run_id, path):
        if item.is_dir:
            yield from files(client, run_id, item.path)
        else:
            yield item.path, item.file_size


def experiment_id(uri: str) -> str:
    experiment = MlflowClient(uri).get_experiment_by_name("taehv")
    assert experiment is not None
    return str(experiment.experiment_id)


def transfer(monkeypatch: pytest.MonkeyPatch, root: Path, uri: str, *command: str) -> int:
    """`taehv track ...` on a store."""
    monkeypatch.setenv("TAEHV_ROOT", str(root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return main(["track", *command])


@pytest.mark.parametrize("name", ["export", "export.tar.gz"])
def test_an_export_holds_everything_and_importing_it_again_changes_nothing(
    name: str, source: Path, empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_store(empty, tmp_path)
    bundle = str(tmp_path / name)
    assert transfer(monkeypatch, source, sqlite(source), "export", bundle) == 0
    for _ in range(2):
        assert transfer(monkeypatch, tmp_path, sqlite(tmp_path), "import", bundle) == 0
        assert everything(sqlite(tmp_path)) == everything(sqlite(source))
    # Back into the store that it came from: all of it is known.
    before = everything(sqlite(source))
    assert transfer(monkeypatch, source, sqlite(source), "import", bundle) == 0
    assert everything(sqlite(source)) == before
    mlflow.set_tracking_uri(sqlite(tmp_path))
    (model,) = MlflowClient().search_logged_models([experiment_id(sqlite(tmp_path))])
    loaded = mlflow.pyfunc.load_model(model.model_uri)
    assert loaded.model_id == model.model_id
    assert loaded.predict(np.zeros((1, 3, 3, 9, 9), np.uint8)).shape == (1, 3, 3, 9, 9)


def test_an_import_that_was_interrupted_is_completed_by_the_next(
    source: Path, empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_store(empty, tmp_path)
    bundle = tmp_path / "export"
    assert transfer(monkeypatch, source, sqlite(source), "export", str(bundle)) == 0
    points = sorted(bundle.glob("runs/*/metrics.jsonl"))[-1]
    content = points.read_bytes()
    points.write_bytes(content[:3] or b"[")
    assert transfer(monkeypatch, tmp_path, sqlite(tmp_path), "import", str(bundle)) == 1
    assert "metrics.jsonl" in capsys.readouterr().err
    points.write_bytes(content)
    assert transfer(monkeypatch, tmp_path, sqlite(tmp_path), "import", str(bundle)) == 0
    assert everything(sqlite(tmp_path)) == everything(sqlite(source))


def test_a_run_is_exported_with_its_children_only(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = MlflowClient(sqlite(source))
    (parent,) = client.search_runs([experiment_id(sqlite(source))], "tags.`mlflow.runName` = 'pipeline'")
    bundle = tmp_path / "export"
    assert transfer(monkeypatch, source, sqlite(source), "export", str(bundle), "--run", parent.info.run_id) == 0
    names = {json.loads(file.read_text())["name"] for file in bundle.glob("runs/*/run.json")}
    assert names == {"pipeline", "a800_test", "evaluate"}
    assert transfer(monkeypatch, source, sqlite(source), "export", str(bundle)) == 1
    assert "is there already" in capsys.readouterr().err
    for wrong in (["--run", "0123"], ["--experiment", "nowhere"]):
        assert transfer(monkeypatch, source, sqlite(source), "export", str(tmp_path / "other"), *wrong) == 1
        assert "there is no" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_what_is_no_export_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.tar").write_text("no tar file")
    (tmp_path / "folder").mkdir()
    for name in ("nothing", "text.tar", "folder"):
        assert transfer(monkeypatch, source, sqlite(source), "import", str(tmp_path / name)) == 1
        assert name in capsys.readouterr().err


@pytest.mark.parametrize(("hidden", "of"), [("*", "run"), ("models", "model")])
def test_files_that_are_not_there_end_the_export(
    hidden: str,
    of: str,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its folder is on another machine, or was deleted: MLflow then says that there are no files."""
    folders = list((source / "mlartifacts").glob(hidden))
    assert folders
    for number, folder in enumerate(folders):
        folder.rename(tmp_path / str(number))
    try:
        assert transfer(monkeypatch, source, sqlite(source), "export", str(tmp_path / "runs.tar")) == 1
    finally:
        for number, folder in enumerate(folders):
            (tmp_path / str(number)).rename(folder)
    said = capsys.readouterr().err
    assert f"the files of {of} " in said and "mlartifacts" in said
    assert not (tmp_path / "runs.tar").exists()


def test_importing_again_leaves_what_was_changed_since(
    source: Path, empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_store(empty, tmp_path)
    bundle = str(tmp_path / "export")
    assert transfer(monkeypatch, source, sqlite(source), "export", bundle) == 0
    assert transfer(monkeypatch, tmp_path, sqlite(tmp_path), "import", bundle) == 0
    client = MlflowClient(sqlite(tmp_path))
    (run,) = client.search_runs([experiment_id(sqlite(tmp_path))], "tags.stage = 'a800_test'")
    client.set_tag(run.info.run_id, "gpu_names", "corrected by hand")
    client.set_tag(run.info.run_id, "mlflow.note.content", "the good one")
    client.delete_tag(run.info.run_id, "git_commit")
    client.set_terminated(run.info.run_id, "FAILED", 1_700_000_000_000)
    assert transfer(monkeypatch, tmp_path, sqlite(tmp_path), "import", bundle) == 0
    again = client.get_run(run.info.run_id)
    assert again.data.tags["gpu_names"] == "corrected by hand"
    assert again.data.tags["mlflow.note.content"] == "the good one"
    assert again.data.tags["git_commit"] == run.data.tags["git_commit"]
    assert (again.info.status, again.info.end_time) == ("FAILED", 1_700_000_000_000)


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, to be copied."""
    bundle = tmp_path_factory.mktemp("exported") / "export"
    with pytest.MonkeyPatch.context() as patch:
        assert transfer(patch, source, sqlite(source), "export", str(bundle)) == 0
    return bundle


@pytest.fixture
def bundle(exported: Path, empty: Path, tmp_path: Path) -> Path:
    """An export, and an empty store in ``tmp_path`` to bring it into."""
    copy_store(empty, tmp_path)
    return Path(shutil.copytree(exported, tmp_path / "export"))


def damaged(bundle: Path, name: str, damage: Callable[[dict[str, Any]], object]) -> None:
    """Changes one JSON file of an export."""
    (file, *_) = sorted(bundle.glob(name))
    content = json.loads(file.read_text())
    damage(content)
    file.write_text(json.dumps(content))


HOSTILE: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "no list of runs": ("export.json", lambda index: index.pop("runs")),
    "a run that is a number": ("export.json", lambda index: index["runs"].append(1)),
    "a run elsewhere": ("export.json", lambda index: index["runs"].append("../../secrets")),
    "a model elsewhere": ("export.json", lambda index: index["models"].append("..")),
    "a run that says that it is elsewhere": ("runs/*/run.json", lambda run: run.update(run_id="../..")),
    "a model that says that it is elsewhere": ("models/*/model.json", lambda model: model.update(model_id="/etc")),
    "a run without its tags": ("runs/*/run.json", lambda run: run.pop("tags")),
    "a tag that is a list": ("runs/*/run.json", lambda run: run["tags"].update(odd=[])),
    "a dataset of another kind": ("runs/*/run.json", lambda run: run.update(datasets=[{"dataset": {}, "tags": {}}])),
    "a model of another run": ("models/*/model.json", lambda model: model.update(source_run_id="0" * 32)),
    "a model of a new kind": ("models/*/model.json", lambda model: model.update(status="LOST")),
    "a version of a model elsewhere": ("registry.json", lambda file: file["versions"][0].update(model_id="..")),
    "an alias that is a number": ("registry.json", lambda file: file["versions"][0].update(aliases=[1])),
    "a model's metric that is a word": ("models/*/model.json", lambda model: model["metrics"][0].update(value="high")),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_export_that_says_what_none_says_is_refused_before_anything_is_brought(
    what: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    damaged(bundle, *HOSTILE[what])
    assert transfer(monkeypatch, tmp_path, sqlite(tmp_path), "import", str(bundle)) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {bundle}") and said.count("\n") == 1
    assert everything(sqlite(tmp_path)) == {"registry": [], "runs": [], "models": []}


@pytest.mark.parametrize("content", ["[" * 20_000, "[1, 2]", '["loss", "high", 1, 2]', '["loss", 1.0, 1, 1e999]'])
def test_metrics_that_are_none_are_refused(
    content: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in bundle.glob("runs/*/metrics.jsonl"):
        file.write_text(content + "\n")
    assert transfer(monkeypatch, tmp_path, sqlite(tmp_path), "import", str(bundle)) == 1
    assert "metrics.jsonl" in capsys.readouterr().err


def test_a_damaged_archive_is_one_clear_error(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound, broken = tmp_path / "sound.tgz", tmp_path / "broken.tgz"
    assert transfer(monkeypatch, source, sqlite(source), "export", str(sound)) == 0
    for seed in range(60):
        broken.write_bytes(mutate(sound.read_bytes(), seed))
        try:
            with unpacked(broken):
                pass
        except ArchiveError:
            continue
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error


@pytest.mark.parametrize("packing", ["folder", "tar"])
def test_a_link_in_an_export_is_refused_because_it_may_lead_to_any_file(packing: str, tmp_path: Path) -> None:
    bundle, secret = tmp_path / "export", tmp_path / "secret"
    (bundle / "runs/1/artifacts").mkdir(parents=True)
    (bundle / "export.json").write_text("{}")
    secret.write_text("secret")
    inside = "export.json" if packing == "tar" else str(secret)  # tar itself refuses links that lead outside
    (bundle / "runs/1/artifacts/notes.txt").symlink_to(inside)
    if packing == "tar":
        with tarfile.open(tmp_path / "export.tar", "w") as tar:
            tar.add(bundle, arcname=".")
        bundle = tmp_path / "export.tar"
    with pytest.raises(ArchiveError, match=r"runs/1/artifacts/notes\.txt is a link"), unpacked(bundle):
        pass


@pytest.mark.parametrize("command", ["export", "import"])
def test_a_dead_server_is_one_clear_error(
    command: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "runs.tar"
    if command == "import":
        assert transfer(monkeypatch, source, sqlite(source), "export", str(bundle)) == 0
    assert transfer(monkeypatch, tmp_path, "http://me:secret@127.0.0.1:9", command, str(bundle)) == 1
    said = capsys.readouterr().err
    assert "http://***@127.0.0.1:9 does not work: " in said and "Connection refused" in said
    assert "cannot be written" not in said
    assert bundle.exists() is (command == "import")


def test_a_laptops_runs_move_to_the_teams_server_on_postgresql(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = str(tmp_path / "export.tar")
    assert transfer(monkeypatch, source, sqlite(source), "export", bundle) == 0
    with postgresql() as database:
        server = MlflowServer(tmp_path, database)
        server.start()
        try:
            for _ in range(2):
                assert transfer(monkeypatch, tmp_path, server.uri, "import", bundle) == 0
                assert everything(server.uri) == everything(sqlite(source))
        finally:
            server.kill()


def test_a_relocation_that_was_killed_is_completed_by_the_next(source: Path, tmp_path: Path) -> None:
    """The store of a copied checkout: it still says that its files are in the original."""
    root, before = tmp_path / "copy", everything(sqlite(source))
    shutil.copytree(source, root)
    refused = track(root, "import", str(source))
    assert refused.returncode == 1
    assert str(source) in refused.stderr and str(root) in refused.stderr
    killed = start_track(root, "relocate")
    wait_until((root / "mlflow.db.relocating").exists, killed)
    killed.kill()
    killed.communicate()
    assert "taehv track relocate" in track(root, "sync").stderr
    done = track(root, "relocate")
    assert done.returncode == 0, done.stderr
    assert everything(sqlite(root)) == everything(sqlite(source)) == before
    (model,) = MlflowClient(sqlite(root)).search_logged_models([experiment_id(sqlite(root))])
    assert model.artifact_location.startswith((root / "mlartifacts").as_uri())
    assert not list(root.glob(".taehv-*"))
    assert "nothing to do" in track(root, "relocate").stdout
