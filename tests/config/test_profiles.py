"""Profiles describe machines, strictly; nothing in them changes a result."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from support.project import REPOSITORY

from taehv.config.params import load_params
from taehv.config.profiles import Profile, load_profile
from taehv.data.dataset import Dataset
from taehv.runtime.errors import ConfigError
from taehv.training.run_spec import RunSpec

PROFILES = REPOSITORY / "profiles"


def changed(folder: Path, **values: object) -> Path:
    """A folder with the local profile under the name `mine`, some keys changed."""
    raw = yaml.safe_load((PROFILES / "local.yaml").read_text()) | {"name": "mine"} | values
    (folder / "mine.yaml").write_text(yaml.safe_dump(raw))
    return folder


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_profile_loads_under_its_file_name(path: Path) -> None:
    assert load_profile(path.stem, PROFILES).name == path.stem


def test_the_environment_names_the_profile_and_local_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAEHV_PROFILE", raising=False)
    assert load_profile(folder=PROFILES).name == "local"
    monkeypatch.setenv("TAEHV_PROFILE", "h100")
    assert load_profile(folder=PROFILES).name == "h100"


def test_a_profile_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(ConfigError, match="must be one of a800, h100, local, ray, got 'b200'"):
        load_profile("b200", PROFILES)


@pytest.mark.parametrize("name", ["../outside", "/{folder}/outside", "./mine", "inside/mine", ".."])
def test_a_profile_is_a_file_of_the_folder_and_nothing_else(name: str, tmp_path: Path) -> None:
    profiles = tmp_path / "profiles"
    (profiles / "inside").mkdir(parents=True)
    for folder in (profiles, profiles / "inside"):
        changed(folder)
    shutil.copy(profiles / "mine.yaml", tmp_path / "outside.yaml")
    with pytest.raises(ConfigError, match="profile: must be one of mine, got"):
        load_profile(name.format(folder=tmp_path), profiles)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"launcher": "slurm"}, "launcher"),
        ({"processes": 0}, "processes"),
        ({"processes": 2}, "processes"),
        ({"gpus": 3, "launcher": "torchrun", "processes": 2}, "gpus"),
        ({"per_device": 1.5}, "per_device"),
        ({"learning_rate": 0.1}, "learning_rate"),
        ({"targets": ["--force"]}, "targets"),
        ({"targets": ["gate_psnr", "foo"]}, "targets"),
    ],
)
def test_a_wrong_profile_names_the_key(values: dict[str, object], key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_profile("mine", changed(tmp_path, **values))
    assert [problem.key for problem in caught.value.problems] == [key]


def test_the_same_work_has_the_same_fingerprint_on_every_machine() -> None:
    params = load_params(REPOSITORY / "params.yaml")

    def fingerprint(profile: Profile) -> str:
        return RunSpec("a800_test", params, profile, Dataset("d", "t", Path("clips")), Path("teacher")).fingerprint

    assert len({fingerprint(load_profile(path.stem, PROFILES)) for path in PROFILES.glob("*.yaml")}) == 1
