"""Where runs are recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from taehv.tracking.store import is_database, tracking_uri


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
