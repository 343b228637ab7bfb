"""A checkpoint holds everything, is whole or does not count, and never fits another configuration by accident."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from taehv.losses.seraena import seraena_per_clip
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS
from taehv.params import Params, load_params
from taehv.profiles import load_profile
from taehv.training.adversary import Adversary
from taehv.training.checkpoint import CheckpointError, load_checkpoint, read_manifest
from taehv.training.checkpoint_writer import CheckpointWriter, keep_newest, newest_first
from taehv.training.job import TrainingJob
from taehv.training.replay import as_tensors
from taehv.training.resume import restore
from taehv.training.state import TrainingState

REPOSITORY = Path(__file__).parents[2]
PARAMS = load_params(REPOSITORY / "params.yaml")


def job(
    params: Params = PARAMS, continue_from: Path | None = None, dataset: str = "d", resume: Path | None = None
) -> TrainingJob:
    profile = load_profile("local", REPOSITORY / "profiles")
    return TrainingJob("h100_train", params, profile, dataset, Path("clips"), Path("teacher"), continue_from, resume)


def save(folder: Path, state: TrainingState, of: TrainingJob | None = None) -> Path:
    writer = CheckpointWriter(of or job(), 0, 1)
    writer.save(folder, state)
    writer.close()
    return folder / f"step-{state.progress.step}"


def new_state(seed: int = 0, width: float = 1 / 16) -> TrainingState:
    variant = VARIANTS["hunyuan_video"]
    adversary = Adversary(
        dataclasses.replace(PARAMS.active.seraena, replay_mib=1),
        variant,
        seed=PARAMS.seed,
        slots=range(2),
        global_batch=2,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    return TrainingState(create_model(variant, width, "torch_default", seed), PARAMS.active.optim, adversary)


def train_a_little(state: TrainingState, steps: int) -> None:
    for step in range(state.progress.step + 1, state.progress.step + steps + 1):
        frames = torch.rand(2, 12, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        latents = state.student.encode(frames)
        decoded = state.student.decode(latents)
        assert state.adversary is not None
        corrections = state.adversary.corrections(decoded, frames, latents)
        seraena_per_clip(decoded, corrections).mean().backward()
        state.adversary.accumulate(step, range(2), decoded, frames, latents)
        state.adversary.finish_step(skipped=False)
        state.optimizers.step(step)
        state.optimizers.zero_grad()
        state.update_ema(step)
        state.progress.step = step
        state.progress.loss_sum += 0.1 * step


def everything(state: TrainingState) -> dict[str, torch.Tensor]:
    assert state.adversary is not None
    return {
        **{f"student.{key}": value for key, value in state.student.state_dict().items()},
        **{f"ema.{key}": value for key, value in state.ema.state_dict().items()},
        **state.optimizers.state_tensors(),
        **state.adversary.state_tensors(),
        **{
            f"{file} {name}": tensor
            for file, samples in state.adversary.remembered().items()
            for name, tensor in as_tensors(samples).items()
        },
        **{f"best.{key}": value for key, value in (state.best_weights or {}).items()},
    }


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


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_damage_to_any_file_is_noticed(tmp_path: Path, damage: str) -> None:
    state = new_state()
    train_a_little(state, 1)
    names = [path.name for path in save(tmp_path, state).iterdir()]
    assert len(names) == 8
    for name in names:
        file = save(tmp_path, state) / name
        content = bytearray(file.read_bytes())
        if damage == "flip":
            content[len(content) // 2] ^= 0x01
            file.write_bytes(content)
        elif damage == "cut":
            file.write_bytes(content[:-1])
        else:
            file.unlink()
        with pytest.raises(CheckpointError):
            read_manifest(tmp_path / "step-1")


def test_a_manifest_that_contradicts_the_files_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, new_state())
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["model.safetensors"]["sha256"] = "0" * 64
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="damaged"):
        read_manifest(path)


def test_an_unfinished_write_does_not_count(tmp_path: Path) -> None:
    (tmp_path / ".step-7.partial").mkdir()
    assert newest_first([tmp_path]) == []


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    state = new_state()
    for step in (1, 2, 10):
        state.progress.step = step
        save(tmp_path, state)
    keep_newest(tmp_path, 2)
    assert [path.name for path in newest_first([tmp_path])] == ["step-10", "step-2"]


def test_a_damaged_newest_checkpoint_costs_only_the_work_since_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = new_state()
    for _ in range(2):
        train_a_little(state, 1)
        save(tmp_path, state)
    (tmp_path / "step-2" / "ema.safetensors").unlink()
    resumed = new_state()
    with caplog.at_level("WARNING"):
        assert "step 1" in restore(resumed, job(), [tmp_path])
    assert resumed.progress.step == 1
    assert "step-2" in caplog.text


def test_without_anything_to_resume_the_run_starts_fresh(tmp_path: Path) -> None:
    state = new_state()
    assert restore(state, job(), [tmp_path]) == "started from initial weights"
    assert state.progress.step == 0


def test_a_named_checkpoint_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="step-1000"):
        restore(new_state(), job(continue_from=tmp_path / "step-1000"), [tmp_path / "nothing"])


def test_a_named_checkpoint_of_other_parameters_is_an_error_that_lists_them(tmp_path: Path) -> None:
    path = save(tmp_path, new_state())
    other = dataclasses.replace(PARAMS, loss=dataclasses.replace(PARAMS.loss, recon=20.0))
    with pytest.raises(CheckpointError, match=r"loss\.recon: 10\.0 there, 20\.0 here"):
        restore(new_state(), job(other, continue_from=path), [])


def test_unfinished_work_comes_before_the_named_checkpoint(tmp_path: Path) -> None:
    state = new_state()
    train_a_little(state, 1)
    named = save(tmp_path / "a800", state)
    train_a_little(state, 1)
    save(tmp_path / "own", state)
    resumed = new_state()
    restore(resumed, job(continue_from=named), [tmp_path / "own"])
    assert resumed.progress.step == 2


def test_weights_of_another_width_do_not_load(tmp_path: Path) -> None:
    path = save(tmp_path, new_state())
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(path, new_state(width=1 / 8))


def test_the_fingerprint_changes_with_parameters_and_data_but_not_with_the_machine() -> None:
    other_params = dataclasses.replace(PARAMS, seed=43)
    other_machine = dataclasses.replace(job(), profile=load_profile("h100", REPOSITORY / "profiles"))
    assert job().fingerprint == other_machine.fingerprint
    assert len({job().fingerprint, job(other_params).fingerprint, job(dataset="e").fingerprint}) == 3
