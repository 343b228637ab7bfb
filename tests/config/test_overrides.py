"""Params changed for one run are read as DVC reads them and checked as strictly as the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.project import REPOSITORY, Project

from taehv.config.overrides import overridden_params, split_overrides
from taehv.config.params import resolved
from taehv.config.profiles import load_profile
from taehv.config.stage_keys import flatten
from taehv.launch.pipeline import describe_plan
from taehv.runtime.errors import ConfigError

PARAMS = REPOSITORY / "params.yaml"


def test_several_params_are_changed_and_all_others_stay() -> None:
    before = flatten(resolved(overridden_params([], PARAMS)))
    after = flatten(resolved(overridden_params(split_overrides("loss.recon=20 seed=3"), PARAMS)))
    changed = {key: value for key, value in after.items() if before[key] != value}
    assert changed == {"loss.recon": 20.0, "seed": 3}


@pytest.mark.parametrize(
    "overrides",
    [
        "scales.embedded.optim.lr=1e-4",
        "scales.embedded.optim.lr=5e-5",
        "scales.embedded.optim.betas=[0.9,0.8]",
        "data.source=videos 'data.path=\"a folder\"'",
        "h100_train.resume_from_a800_step=null",
        "scales.embedded.data.horizontal_flip=false",
    ],
)
def test_values_mean_what_dvc_makes_of_them(overrides: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(PARAMS.read_text())
    program = "import sys; from dvc.utils.hydra import apply_overrides; apply_overrides(sys.argv[1], sys.argv[2:])"
    subprocess.run([sys.executable, "-c", program, str(file), *split_overrides(overrides)], check=True)
    assert file.read_text() != PARAMS.read_text() or "null" in overrides
    assert overridden_params([], file) == overridden_params(split_overrides(overrides), PARAMS)


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        ("loss.rcon=1", ["loss.rcon: unknown key; known here: recon, encoder"]),
        ("seed.x=1", ["seed.x: unknown key; known here: none, it is a value"]),
        (
            "seed=abc loss.recon=high",
            ["seed: must be an integer >= 0 and <= 4294967295, got 'abc'", "loss.recon: must be a finite number"],
        ),
        (
            "loss.rcon=1 seed=abc gate.min_psnr_db",
            ["3 problems", "loss.rcon: unknown key", "min_psnr_db: is not key=value", "seed: must be an integer"],
        ),
        ("seed", ["seed: is not key=value"]),
        ("+seed=3", ["+seed=3: must be key=value"]),
        ("seed=1,2", ["seed=1,2: must be key=value"]),
        ("seed='1", ["cannot be split"]),
    ],
)
def test_what_is_wrong_is_said_all_at_once(overrides: str, messages: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        overridden_params(split_overrides(overrides), PARAMS)
    for message in messages:
        assert message in str(refused.value)


def test_a_dry_run_shows_the_experiment() -> None:
    shown = describe_plan(
        load_profile("local", REPOSITORY / "profiles"), overridden_params(["seed=3"], PARAMS), (), ["seed=3"]
    )
    assert "dvc exp run --temp -S seed=3 evaluate" in shown


def test_without_a_commit_it_is_refused_with_the_way_out(project: Project) -> None:
    project.git("update-ref", "-d", "HEAD")
    result = project.run("taehv.launch", "--set", "seed=3", check=False)
    assert result.returncode == 1
    assert "needs a git repository with a commit" in result.stderr
