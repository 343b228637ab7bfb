"""Data that is missing, damaged, or made with other parameters is told before training meets it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import yaml
from support.project import Project
from support.run_contexts import context, levels

from taehv.config.params import load_params
from taehv.doctor.check import Check
from taehv.doctor.context import RunContext
from taehv.doctor.prepared_data import check_gate, check_prepared_data
from taehv.runtime import paths

pytestmark = pytest.mark.slow


@pytest.fixture
def prepared(tiny_project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tiny_project.root)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tiny_project


def look(*, whole_pipeline: bool = False) -> list[Check]:
    return check_prepared_data(context(load_params(), whole_pipeline=whole_pipeline))


def failed(check_results: list[Check]) -> dict[str, str]:
    return {check_result.name: check_result.detail for check_result in check_results if check_result.level == "fail"}


def test_whole_data_passes(prepared: Project) -> None:
    assert levels(look()) == {"clips": "pass", "data hash": "pass", "teacher": "pass", "data params": "pass"}


@pytest.mark.parametrize("damage", ["cut", "longer", "deleted", "another file"])
def test_a_damaged_shard_fails_with_its_name(prepared: Project, damage: str) -> None:
    shard = next(iter(sorted(Path("data/clips").glob("train-*.tar"))))
    content = shard.read_bytes()
    shard.chmod(0o644)
    shard.unlink()
    if damage != "deleted":
        shard.write_bytes({"cut": content[:-1], "longer": content + b"0", "another file": b"hello"}[damage])
    assert shard.name in failed(look())["clips"]


def test_a_changed_byte_fails_before_a_pipeline_and_is_not_looked_for_at_the_start_of_a_stage(
    prepared: Project,
) -> None:
    shard = next(Path("data/clips").glob("val-*.tar"))
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.chmod(0o644)
    shard.unlink()
    shard.write_bytes(content)
    assert shard.name in failed(look())["clips"]
    at_start = dataclasses.replace(context(load_params(), whole_pipeline=False), at_start_of_stage=True)
    assert failed(check_prepared_data(at_start)) == {}


def test_another_index_than_the_stated_one_fails(prepared: Project) -> None:
    facts = prepared.json("data/dataset.json")
    Path("data/dataset.json").unlink()
    Path("data/dataset.json").write_text(json.dumps({**facts, "dataset_sha256": "0" * 64}))
    assert set(failed(look())) == {"data hash"}


def test_a_damaged_teacher_fails(prepared: Project) -> None:
    weights = next(Path("data/teacher").glob("*.safetensors"))
    weights.unlink()
    weights.write_bytes(b"nothing")
    assert {"teacher", "data hash"} <= set(failed(look()))


def test_changed_parameters_fail_a_single_stage_and_warn_where_dvc_prepares_again(prepared: Project) -> None:
    prepared.change_params({"scales": {"embedded": {"data": {"clips_per_video": 5}}}})
    assert failed(look()) == {"data params": "changed since prepare_data: data.clips_per_video: 4 then, 5 now"}
    assert levels(look(whole_pipeline=True))["data params"] == "warn"


def test_parameters_that_do_not_concern_the_data_may_change(prepared: Project) -> None:
    prepared.change_params({"loss": {"recon": 3.0}, "scales": {"embedded": {"model": {"width": 0.5}}}})
    assert failed(look()) == {}


def test_data_that_is_not_there_fails_a_single_stage_and_warns_before_the_pipeline(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root)
    assert levels(look()) == {"data": "fail", "manifest": "pass"}
    assert levels(look(whole_pipeline=True)) == {"data": "warn", "manifest": "pass"}
    shutil.rmtree(paths.MANIFEST)
    assert levels(look(whole_pipeline=True))["manifest"] == "fail"


def test_h100_train_alone_is_told_that_the_gate_will_refuse_it(prepared: Project) -> None:
    alone = RunContext(load_params(), context().profile, ("h100_train",), whole_pipeline=False)
    (check_result,) = check_gate(alone)
    assert check_result.level == "fail"
    assert "gate" in check_result.detail
    assert check_gate(context(load_params())) == []


def test_the_parameters_that_prepare_data_noted_are_read_not_guessed(prepared: Project) -> None:
    noted = yaml.safe_load(paths.PREPARE_PARAMS.read_text())
    paths.PREPARE_PARAMS.unlink()
    paths.PREPARE_PARAMS.write_text(yaml.safe_dump({**noted, "scale": "full"}))
    assert failed(look()) == {"data params": "changed since prepare_data: scale: full then, embedded now"}
