"""Which model is the champion, and why."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from taehv.tracking.registry import CHAMPION, Decision, Registry, decide
from taehv.tracking.store import open_store, tracking_uri

TAGS = {"test_psnr_db": "27.5", "dataset_sha256": "ab" * 32, "test_clips": "24", "test_frames": "9"}


def test_the_first_model_is_the_champion() -> None:
    assert decide(TAGS, None) == Decision(
        True, "the first: test PSNR 27.50 dB on 24 clips of 9 frames of dataset abababababab"
    )


@pytest.mark.parametrize(("score", "replaces"), [("27.6", True), ("27.5", False), ("27.4", False)])
def test_only_a_better_score_on_the_same_clips_replaces_the_champion(score: str, replaces: bool) -> None:
    decision = decide({**TAGS, "test_psnr_db": score}, TAGS)
    assert decision.replaces is replaces
    assert f"test PSNR {float(score):.4f} dB against 27.5000 dB on 24 clips" in decision.reason


@pytest.mark.parametrize("changed", [{"dataset_sha256": "cd" * 32}, {"test_clips": "48"}, {"test_frames": "12"}])
def test_a_better_score_on_other_clips_replaces_nobody(changed: dict[str, str]) -> None:
    decision = decide({**TAGS, "test_psnr_db": "40.0", **changed}, TAGS)
    assert not decision.replaces
    assert "cannot be compared" in decision.reason


@pytest.mark.parametrize("tags", [{}, {**TAGS, "test_psnr_db": "good"}])
def test_a_champion_without_a_score_was_chosen_by_hand_and_stays(tags: dict[str, str]) -> None:
    assert not decide(TAGS, tags).replaces


@pytest.mark.slow
def test_the_registry_moves_the_alias_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAEHV_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    experiment = open_store()
    client = MlflowClient(tracking_uri())
    registry, name = Registry(client), "taehv"

    def evaluated(**tags: str) -> str:
        """A new model, registered and promoted as evaluate does it; returns its version."""
        run = client.create_run(experiment)
        model = client.create_logged_model(experiment, source_run_id=run.info.run_id).model_id
        version = registry.register(model, name, "h100-passed", TAGS | tags, "passed")
        registry.promote(model, name, TAGS | tags)
        # An event that is sent once more changes nothing.
        assert registry.register(model, name, "h100-passed", TAGS | tags, "passed") == version
        registry.promote(model, name, TAGS | tags)
        return version

    def holder(alias: str) -> str:
        return str(client.get_model_version_by_alias(name, alias).version)

    first = evaluated()
    better = evaluated(test_psnr_db="28.0")
    worse = evaluated(test_psnr_db="27.0")
    elsewhere = evaluated(test_psnr_db="40.0", dataset_sha256="cd" * 32)
    assert holder(CHAMPION) == better
    assert holder("h100-passed") == elsewhere
    said = {
        version: str(client.get_model_version(name, version).description)
        for version in (first, better, worse, elsewhere)
    }
    the_first = "the first: test PSNR 27.50 dB on 24 clips of 9 frames of dataset abababababab"
    assert said[first] == f"h100-passed: passed\nchampion: {the_first}"
    assert f"champion: replaced version {first}: test PSNR 28.0000 dB against 27.5000 dB" in said[better]
    assert f"champion: version {better} stays: not better: test PSNR 27.0000 dB" in said[worse]
    assert (
        f"champion: version {better} stays: measured on 24 clips of 9 frames of dataset cdcdcdcdcdcd" in said[elsewhere]
    )
    assert f"set_registered_model_alias('{name}', 'champion', '{elsewhere}')" in said[elsewhere]
    # Someone chooses by hand: that is respected, and later models are compared with it.
    client.set_registered_model_alias(name, CHAMPION, worse)
    assert evaluated(test_psnr_db="27.2") == holder(CHAMPION)


@pytest.mark.slow
def test_an_event_that_is_sent_late_takes_no_alias_from_a_newer_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAEHV_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    experiment = open_store()
    client = MlflowClient(tracking_uri())
    registry, name, alias = Registry(client), "taehv", "h100-passed"

    def trained(began: int) -> str:
        run = client.create_run(experiment, start_time=began)
        return str(client.create_logged_model(experiment, source_run_id=run.info.run_id).model_id)

    def holder() -> str:
        return str(client.get_model_version_by_alias(name, alias).version)

    # The older training's model reaches the store last, as its whole journal may.
    newer, older, newest = trained(2000), trained(1000), trained(3000)
    first = registry.register(newer, name, alias, TAGS, "passed")
    late = registry.register(older, name, alias, TAGS, "passed")
    assert holder() == first != late
    assert client.get_model_version(name, late).description == (
        f"{alias}: version {first}, whose run began later, keeps the alias; passed"
    )
    assert registry.register(newer, name, alias, TAGS, "passed") == first == holder()
    assert registry.register(newest, name, alias, TAGS, "passed") == holder()
    # Where the holder's training is not known any more, nothing says that it is newer.
    client.delete_logged_model(newest)
    assert registry.register(older, name, alias, TAGS, "passed") == holder() == late
