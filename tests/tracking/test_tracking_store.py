"""Where runs are recorded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.project import REPOSITORY

from taehv.tracking.probe import reach_store
from taehv.tracking.store import StoreError, check_uri, database_file, is_database, open_store, tracking_uri
from taehv.tracking.tags import parent_from_environment


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("", "sqlite:///{root}/mlflow.db"),
        ("sqlite:///team.db", "sqlite:///{root}/team.db"),
        ("sqlite:////data/team.db", "sqlite:////data/team.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_a_relative_database_is_one_of_the_main_repository(
    given: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAEHV_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert tracking_uri() == wanted.format(root=tmp_path)


@pytest.mark.parametrize(("uri", "is_one"), [("postgresql+psycopg://h/d", True), ("https://h", False)])
def test_a_database_has_no_place_for_artifacts(uri: str, is_one: bool) -> None:
    assert is_database(uri) is is_one


@pytest.fixture
def default_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TAEHV_ROOT", str(tmp_path / "project"))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "project"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["what? now", "100%41 a%3Fb", "#1 +a@b:c&d=e"])
def test_the_default_store_is_in_the_repository_whatever_its_path(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow and SQLAlchemy take a URI, where ? and % mean something."""
    root = tmp_path / name
    monkeypatch.setenv("TAEHV_ROOT", str(root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    experiment = open_store()
    assert database_file(tracking_uri()) == root / "mlflow.db"
    client = MlflowClient(tracking_uri())
    run = client.create_run(experiment)
    client.log_text(run.info.run_id, "here", "note.txt")
    assert {path.name for path in tmp_path.iterdir()} == {name}
    assert [path.name for path in root.iterdir() if path.name.endswith(".db")] == ["mlflow.db"]
    assert (root / f"mlartifacts/{run.info.run_id}/artifacts/note.txt").read_text() == "here"
    assert reach_store().what == "can be written"


def test_a_uri_of_the_users_own_is_read_as_sqlalchemy_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAEHV_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///a%20b.db?timeout=5")
    assert database_file(tracking_uri()) == tmp_path / "a b.db"
    assert tracking_uri().endswith("/a b.db?timeout=5")


@pytest.mark.slow
class TestExperiment:
    def test_the_environment_chooses_it_by_id_or_by_name(
        self, default_store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mine = open_store("mine")
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", mine)
        assert open_store() == mine
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "by name")
        assert MlflowClient(tracking_uri()).get_experiment(open_store()).name == "by name"

    def test_an_id_that_is_not_there_is_told(self, default_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for wrong in ("123456", "taehv"):
            monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", wrong)
            with pytest.raises(StoreError, match=f"MLFLOW_EXPERIMENT_ID={wrong}: .* has no such experiment"):
                open_store()

    @pytest.mark.parametrize("chosen", ["name", "id"])
    def test_a_deleted_one_is_restored_by_the_command_that_is_named(
        self, chosen: str, default_store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        number = open_store()
        client = MlflowClient(tracking_uri())
        client.delete_experiment(number)
        if chosen == "id":
            monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", number)
        with pytest.raises(StoreError) as caught:
            open_store()
        said = str(caught.value)
        assert "or name another with MLFLOW_EXPERIMENT_NAME" in said
        command = f"mlflow experiments restore --experiment-id {number}"
        assert command in said
        environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking_uri()}
        subprocess.run([sys.executable, "-m", *command.split()], env=environment, check=True, capture_output=True)
        assert open_store() == number

    def test_mlflow_run_without_an_experiment_chooses_none(
        self, default_store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It names its experiment to its children, 0 where nobody has said one."""
        monkeypatch.setenv("MLFLOW_RUN_ID", "r")
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
        assert parent_from_environment() == "r"
        assert MlflowClient(tracking_uri()).get_experiment(open_store()).name == "taehv"


@pytest.mark.parametrize("uri", ["databricks", "databricks://profile", "databricks-uc", "uc:oss", "mssql+pyodbc://h/d"])
def test_stores_that_mlflow_knows_are_taken_and_said_to_be_untested(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    probe = reach_store()
    assert probe.unusable is None
    assert probe.untested == "delivery at least once, not tested here"


@pytest.mark.parametrize("uri", ["nonsense://here", "/some/folder", "http", "file:///mlruns"])
def test_what_no_store_is_registered_for_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(StoreError, match="must begin with one of"):
        check_uri()


PLUGIN = """
def store(store_uri=None, artifact_uri=None):
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    return SqlAlchemyStore("sqlite:///" + store_uri.removeprefix("team-store://"), artifact_uri or "artifacts")
def registry(store_uri=None, tracking_uri=None):
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
    return SqlAlchemyStore("sqlite:///" + store_uri.removeprefix("team-store://"))
"""


@pytest.mark.slow
def test_a_store_that_an_installed_package_brings_is_used(tmp_path: Path) -> None:
    (tmp_path / "team_store.py").write_text(PLUGIN)
    package = tmp_path / "team_store-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: team-store\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[mlflow.tracking_store]\nteam-store = team_store:store\n"
        "[mlflow.model_registry_store]\nteam-store = team_store:registry\n"
    )
    program = "from taehv.tracking.store import open_store; print('experiment', open_store())"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= {"PYTHONPATH": f"{REPOSITORY}:{tmp_path}", "MLFLOW_TRACKING_URI": f"team-store://{tmp_path}/team.db"}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.stdout.startswith("experiment "), result.stderr
    assert (tmp_path / "team.db").exists()
