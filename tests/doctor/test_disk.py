"""What a run will write is known before it starts, and compared with the space that is really there."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.project import Project
from support.run_contexts import changed_params, changed_profile, context, found

from taehv.data.dataset import Dataset
from taehv.doctor.disk import Need, check_disk, dvc_cache, judge_disks
from taehv.doctor.planned_writes import NOTHING, checkpoint_bytes, planned_writes
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS
from taehv.runtime import atomic_files, paths
from taehv.training.adversary import Adversary
from taehv.training.checkpoint_writer import CheckpointWriter
from taehv.training.run_spec import RunSpec
from taehv.training.state import TrainingState

SMALL = {
    "scales": {
        "embedded": {
            "data": {"height": 16, "width": 16},
            "model": {"width": 0.125},
            "seraena": {"start_step": 2, "replay_mib": 1},
        }
    }
}


def new_job() -> RunSpec:
    return RunSpec(
        "a800_test", changed_params(SMALL), changed_profile(), Dataset("d", "t", Path("clips")), Path("teacher")
    )


def trained_state(spec: RunSpec, steps: int) -> TrainingState:
    scale, variant = spec.params.active, VARIANTS["hunyuan_video"]
    batch = scale.batch.global_
    adversary = Adversary(
        scale.seraena,
        variant,
        seed=0,
        slots=range(batch),
        global_batch=batch,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    state = TrainingState(create_model(variant, scale.model.width, scale.model.init, 0), scale.optim, adversary)
    for step in range(1, steps + 1):
        frames = torch.rand(batch, 12, 3, 16, 16)
        latents = state.student.encode(frames)
        decoded = state.student.decode(latents)
        decoded.mean().backward()
        if step >= scale.seraena.start_step:
            adversary.accumulate(step, range(batch), decoded, frames, latents)
            adversary.finish_step(skipped=False)
        state.optimizers.step(step)
        state.progress.step = step
    state.keep_as_best()
    return state


def test_the_size_of_a_checkpoint_is_predicted_within_two_percent(tmp_path: Path) -> None:
    spec = new_job()
    writer = CheckpointWriter(spec, 0, 1)
    writer.save(tmp_path, trained_state(spec, 4))
    writer.close()
    written = sum(file.stat().st_size for file in (tmp_path / "step-4").iterdir())
    assert checkpoint_bytes(spec, 4) == pytest.approx(written, rel=0.02)


def test_what_the_adversary_remembers_grows_up_to_its_limit() -> None:
    spec = new_job()
    before, later, full = (checkpoint_bytes(spec, step) for step in (1, 2, 10**6))
    assert before < later < full <= before + 2**20


def test_a_resumed_run_needs_only_what_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    spec = dataclasses.replace(new_job(), stage="h100_train")
    fresh = planned_writes(spec)
    (spec.work.checkpoints / "step-1000").mkdir(parents=True)
    resumed = planned_writes(spec)
    assert fresh.published - resumed.published == checkpoint_bytes(spec, 1000)


def test_a_finished_stage_needs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = new_job()
    outputs = paths.training_outputs(spec.stage)
    outputs.best_model.mkdir(parents=True)
    atomic_files.write_json(outputs.summary, {})
    atomic_files.write_json(outputs.best_info, {"fingerprint": "another run's"})
    assert planned_writes(spec) != NOTHING
    atomic_files.write_json(outputs.best_info, {"fingerprint": spec.fingerprint})
    assert planned_writes(spec) == NOTHING


def test_less_than_needed_fails_and_less_than_twice_as_much_warns(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    for needed, level in ((free // 10, "pass"), (free * 2 // 3, "warn"), (free * 2, "fail")):
        (check_result,) = judge_disks([Need(".work", tmp_path / "not" / "there yet", needed)])
        assert check_result.level == level


def test_needs_on_one_disk_add_up(tmp_path: Path) -> None:
    half = shutil.disk_usage(tmp_path).free * 3 // 5
    (check_result,) = judge_disks([Need(".work", tmp_path, half), Need("DVC cache", tmp_path, half)])
    assert check_result.level == "fail"
    assert check_result.detail.startswith(".work, DVC cache: ")


def test_a_run_that_no_disk_holds_fails_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    large = {"model": {"width": 4.0}, "checkpoint": {"every": 1}, "steps": {"h100_train": 10**5}}
    check_results = check_disk(context(changed_params({"scales": {"embedded": large}}), stages=("h100_train",)))
    check_result = found(check_results, "disk")
    assert check_result.level == "fail"
    assert "TB to be written" in check_result.detail


def test_dvcs_own_cache_settings_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / ".dvc").mkdir()
    assert dvc_cache() == (tmp_path / ".dvc/cache", False)
    (tmp_path / ".dvc/config").write_text("[cache]\n    dir = /large\n['remote \"r\"']\n    url = /somewhere\n")
    (tmp_path / ".dvc/config.local").write_text("[cache]\n    type = hardlink,symlink\n")
    assert dvc_cache() == (Path("/large"), True)


@pytest.mark.slow
def test_a_really_full_file_system_fails(project: Project) -> None:
    mount = "mkdir .work && mount -t tmpfs -o size=4m none .work && head -c 3m /dev/zero > .work/full"
    command = f'{mount} && "{sys.executable}" -m taehv.cli doctor --json'
    probe = subprocess.run(["unshare", "-rm", "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True)
    if probe.returncode != 0:
        pytest.skip("this machine does not let us mount a file system (unshare -rm)")
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command],
        cwd=project.root,
        env=project.environment(),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1, result.stderr
    disks = [check_result for check_result in json.loads(result.stdout)["findings"] if check_result["name"] == "disk"]
    (full,) = [check_result for check_result in disks if check_result["level"] == "fail"]
    assert full["detail"].startswith(".work: ")
    assert "free some space" in full["what_to_do"]
