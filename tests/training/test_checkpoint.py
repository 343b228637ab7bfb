"""A checkpoint holds everything, is whole or does not count, and never fits another configuration by accident."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shlex
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.full_disk import needs_small_disks, run_on_small_disk
from support.project import REPOSITORY
from support.training_states import PARAMS, everything, new_state, save, spec, train_a_little

from taehv.config.profiles import load_profile
from taehv.runtime.errors import UserError
from taehv.training.checkpoint import (
    BEST,
    EMA,
    MODEL,
    CheckpointError,
    CheckpointInfo,
    load_checked,
    read_checkpoint_manifest,
)
from taehv.training.checkpoint_writer import CheckpointWriter, delete_unfinished, keep_newest, newest_first
from taehv.training.state import TrainingState


def load_checkpoint(path: Path, state: TrainingState) -> CheckpointInfo:
    info = read_checkpoint_manifest(path)
    load_checked(info, state)
    return info


def test_a_resumed_state_goes_on_bit_for_bit(tmp_path: Path) -> None:
    uninterrupted = new_state()
    train_a_little(uninterrupted, 2)
    path = save(tmp_path, uninterrupted)
    train_a_little(uninterrupted, 2)
    resumed = new_state(seed=99)
    load_checkpoint(path, resumed)
    train_a_little(resumed, 2)
    assert resumed.progress == uninterrupted.progress
    ours, theirs = everything(resumed), everything(uninterrupted)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def saved(folder: Path) -> Path:
    """A checkpoint that holds everything a checkpoint can hold."""
    state = new_state()
    train_a_little(state, 1)
    state.keep_as_best()
    state.progress.best_step = 1
    return save(folder, state)


def damages(content: bytes) -> Iterator[bytes]:
    """The content with one bit flipped in one of several places, or cut there."""
    places = {0, len(content) // 3, len(content) // 2, len(content) - 1}
    for place in sorted(places):
        yield content[:place] + bytes([content[place] ^ 0x01]) + content[place + 1 :]
        yield content[:place]


def test_damage_to_any_file_is_noticed(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path)
    files = sorted(checkpoint.iterdir())
    assert {file.name.split("-")[0].split(".")[0] for file in files} == {
        "adversary", "best", "ema", "manifest", "model", "optimizer", "progress", "replay",
    }  # fmt: skip
    for file in files:
        whole = file.read_bytes()
        for damaged in damages(whole):
            file.write_bytes(damaged)
            with pytest.raises(CheckpointError):
                load_checkpoint(checkpoint, new_state())
        file.unlink()
        with pytest.raises(CheckpointError):
            load_checkpoint(checkpoint, new_state())
        file.write_bytes(whole)
    assert load_checkpoint(checkpoint, new_state()).step == 1


def test_a_manifest_that_contradicts_the_files_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, new_state())
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["model.safetensors"]["sha256"] = "0" * 64
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint_manifest(path)


def test_an_unfinished_write_does_not_count_and_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".step-7.partial").mkdir()
    assert newest_first([tmp_path]) == []
    delete_unfinished([tmp_path])
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_the_state_when_save_was_called(tmp_path: Path) -> None:
    state = new_state()
    train_a_little(state, 2)
    before = {name: tensor.clone() for name, tensor in everything(state).items()}
    writer = CheckpointWriter(spec(), 0, 1)
    writer.save(tmp_path, state)
    train_a_little(state, 1)
    writer.close()
    loaded = new_state(seed=9)
    load_checkpoint(tmp_path / "step-2", loaded)
    after = everything(loaded)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_whole_checkpoint_of_the_same_step_stays_and_a_damaged_one_is_replaced(tmp_path: Path) -> None:
    path = saved(tmp_path)
    inode = path.stat().st_ino
    assert saved(tmp_path).stat().st_ino == inode
    (path / "model.safetensors").unlink()
    assert saved(tmp_path).stat().st_ino != inode
    assert read_checkpoint_manifest(path).step == 1


def test_a_disk_that_cannot_take_the_checkpoint_is_an_error_and_the_one_before_is_intact(tmp_path: Path) -> None:
    before = saved(tmp_path / "checkpoints")
    state = new_state()
    train_a_little(state, 2)
    writer = CheckpointWriter(spec(), 0, 1)
    (tmp_path / "checkpoints/.step-2.partial").write_text("a file where the folder has to go")
    writer.save(tmp_path / "checkpoints", state)
    with pytest.raises(UserError, match="the checkpoint of step 2 cannot be written"):
        writer.close()
    assert read_checkpoint_manifest(before).step == 1


def test_training_draws_nothing_from_the_global_generators() -> None:
    """That is why no random state has to be in a checkpoint."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    train_a_little(new_state(), 3)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    state = new_state()
    for step in (1, 2, 10):
        state.progress.step = step
        save(tmp_path, state)
    keep_newest(tmp_path, 2, up_to=10)
    assert [path.name for path in newest_first([tmp_path])] == ["step-10", "step-2"]


def test_later_checkpoints_that_are_damaged_do_not_push_out_the_one_just_written(tmp_path: Path) -> None:
    state = new_state()
    for step in (8, 9, 6, 7):
        state.progress.step = step
        writer = CheckpointWriter(spec(), 0, 1)
        writer.save(tmp_path, state, keep=2)
        writer.close()
        if step > 7:
            (tmp_path / f"step-{step}/model.safetensors").unlink()
        else:
            assert read_checkpoint_manifest(tmp_path / f"step-{step}").step == step
    state.progress.step = 10
    writer = CheckpointWriter(spec(), 0, 1)
    writer.save(tmp_path, state, keep=2)
    writer.close()
    assert [path.name for path in newest_first([tmp_path])] == ["step-10", "step-9"], "the old ones are deleted in time"


FILL_AND_SAVE = """
import sys; sys.path[:0] = sys.argv[2:]
import os
from pathlib import Path
from support.training_states import spec, new_state, save, train_a_little
from taehv.runtime.errors import exit_with

def main():
    disk = Path(sys.argv[1])
    state = new_state()
    train_a_little(state, 1)
    first = save(disk / "rolling", state)
    size = sum(file.stat().st_size for file in first.iterdir())
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "someone else's").write_bytes(bytes(free - size // 2))
    train_a_little(state, 1)
    save(disk / "rolling", state)
    return 0

exit_with(main)
"""
READ_FIRST = """
import sys; sys.path[:0] = sys.argv[2:]
from pathlib import Path
from taehv.training.checkpoint import read_checkpoint_manifest
print("intact: step", read_checkpoint_manifest(Path(sys.argv[1]) / "rolling/step-1").step)
"""


@pytest.mark.slow
def test_a_disk_that_is_full_while_a_checkpoint_is_written_costs_only_that_one(tmp_path: Path) -> None:
    needs_small_disks()
    disk = tmp_path / "disk"
    disk.mkdir()
    places = (str(REPOSITORY), str(REPOSITORY / "tests"))
    read = shlex.join([sys.executable, "-c", READ_FIRST, str(disk), *places])
    left = f"ls -A {shlex.quote(str(disk / 'rolling'))}; {read}"
    result = run_on_small_disk(disk, "size=64m", FILL_AND_SAVE, disk, *places, after=left)
    assert result.returncode == 1
    assert "error: the checkpoint of step 2 cannot be written" in result.stderr and "make room" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout.split("\n")[:2] == ["step-1", "intact: step 1"], "and nothing half written is left"


@pytest.mark.parametrize("name", [MODEL, EMA, BEST])
def test_weights_that_are_not_finite_do_not_load(tmp_path: Path, name: str) -> None:
    """Whole by its checksums: such as an older version, or a GPU that miscounts, may have written it."""
    state = new_state()
    weights = state.student if name == MODEL else state.ema
    with torch.no_grad():
        next(weights.parameters()).view(-1)[0] = float("nan")
    if name == BEST:
        state.keep_as_best()
        state.progress.best_step = 1
        with torch.no_grad():
            next(weights.parameters()).view(-1)[0] = 0.0
    path = save(tmp_path, state)
    with pytest.raises(CheckpointError, match=rf"{name} holds tensors .*\n.*1 of .* NaN or infinite"):
        load_checkpoint(path, new_state())


def test_the_files_of_a_checkpoint_get_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    earlier = os.umask(0o022)
    try:
        checkpoint = saved(tmp_path)
    finally:
        os.umask(earlier)
    assert {stat.S_IMODE(file.stat().st_mode) for file in checkpoint.iterdir()} == {0o644}


def test_weights_of_another_width_do_not_load(tmp_path: Path) -> None:
    path = save(tmp_path, new_state())
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(path, new_state(width=1 / 8))


def test_the_fingerprint_changes_with_parameters_and_data_but_not_with_the_machine() -> None:
    other_params = PARAMS.model_copy(update={"seed": 43})
    other_machine = dataclasses.replace(spec(), profile=load_profile("h100", REPOSITORY / "profiles"))
    assert spec().fingerprint == other_machine.fingerprint
    assert len({spec().fingerprint, spec(other_params).fingerprint, spec(dataset="e").fingerprint}) == 3
