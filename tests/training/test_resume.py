"""Where a run starts from: the order of precedence, and what may never pass for another thing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.training_states import PARAMS, everything, new_state, save, spec, train_a_little

from taehv.config.params import InitialWeights, Params
from taehv.model.checkpoints import write_state_dict
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS
from taehv.runtime.errors import UserError
from taehv.runtime.hashing import sha256_of_file
from taehv.training.build import initial_student
from taehv.training.checkpoint import CheckpointError
from taehv.training.resume import restore
from taehv.training.run_spec import RunSpec

OTHER_LOSS = PARAMS.model_copy(update={"loss": PARAMS.loss.model_copy(update={"recon": 20.0})})


def with_weights(path: Path, sha256: str | None = None) -> Params:
    named = InitialWeights(path=str(path), sha256=sha256 or sha256_of_file(path))
    model = PARAMS.active.model.model_copy(update={"width": 1 / 16, "weights": named})
    return PARAMS.model_copy(update={"scales": {PARAMS.scale: PARAMS.active.model_copy(update={"model": model})}})


def naming(field: str, checkpoint: Path, of: RunSpec | None = None) -> RunSpec:
    """The run with ``resume`` or ``continue_from`` set."""
    of = of or spec()
    if field == "resume":
        return dataclasses.replace(of, resume=checkpoint)
    return dataclasses.replace(of, continue_from=checkpoint)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A checkpoint file with the published keys."""
    path = tmp_path / "taehv.safetensors"
    write_state_dict(path, create_model(VARIANTS["hunyuan_video"], 1 / 16, "torch_default", seed=5).state_dict())
    return path


def test_first_comes_the_checkpoint_that_resume_names(tmp_path: Path) -> None:
    state = new_state()
    for _ in range(2):
        train_a_little(state, 1)
        save(tmp_path / "own", state)
    resumed = new_state()
    restore(resumed, spec(resume=tmp_path / "own/step-1", continue_from=tmp_path / "absent"), [tmp_path / "own"])
    assert resumed.progress.step == 1


def test_then_comes_unfinished_work(tmp_path: Path) -> None:
    state = new_state()
    train_a_little(state, 1)
    named = save(tmp_path / "a800", state)
    train_a_little(state, 1)
    save(tmp_path / "own", state)
    resumed = new_state()
    restore(resumed, spec(continue_from=named), [tmp_path / "own"])
    assert resumed.progress.step == 2


def test_then_comes_the_other_stages_checkpoint_whose_best_model_does_not_count_here(tmp_path: Path) -> None:
    state = new_state()
    train_a_little(state, 2)
    state.progress.best_psnr, state.progress.best_step = 30.0, 2
    state.keep_as_best()
    named = save(tmp_path / "a800", state, spec(stage="a800_test"))
    resumed = new_state()
    assert restore(resumed, spec(continue_from=named), [tmp_path / "own"]) == f"continued from {named}"
    assert resumed.progress.step == 2
    assert resumed.progress.resumed_from == {"stage": "a800_test", "step": 2}
    assert resumed.progress.best_psnr is None and resumed.best_weights is None


def test_then_come_the_weights_that_the_parameters_name(published: Path, tmp_path: Path) -> None:
    params = with_weights(published)
    student = initial_student(params)
    theirs = create_model(VARIANTS["hunyuan_video"], 1 / 16, "torch_default", seed=5)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), theirs.parameters(), strict=True))
    assert str(published) in restore(new_state(), spec(params), [tmp_path])


def test_and_last_a_fresh_start(tmp_path: Path) -> None:
    state = new_state()
    assert restore(state, spec(), [tmp_path]) == "started from initial weights"
    assert state.progress.step == 0


@pytest.mark.parametrize("named", ["resume", "continue_from"])
def test_a_named_checkpoint_that_does_not_exist_is_an_error(tmp_path: Path, named: str) -> None:
    with pytest.raises(CheckpointError, match="step-1000"):
        restore(new_state(), naming(named, tmp_path / "step-1000"), [tmp_path / "nothing"])


@pytest.mark.parametrize("named", ["resume", "continue_from"])
def test_a_named_checkpoint_of_another_configuration_is_an_error_that_lists_what_differs(
    tmp_path: Path, named: str
) -> None:
    path = save(tmp_path, new_state())
    with pytest.raises(CheckpointError, match=r"loss\.recon: 10\.0 there, 20\.0 here"):
        restore(new_state(), naming(named, path, spec(OTHER_LOSS)), [])
    with pytest.raises(CheckpointError, match="dataset_sha256: d there, e here"):
        restore(new_state(), naming(named, path, spec(dataset="e")), [])


def test_resume_takes_no_checkpoint_of_another_stage(tmp_path: Path) -> None:
    path = save(tmp_path, new_state(), spec(stage="a800_test"))
    with pytest.raises(CheckpointError, match="stage: a800_test there, h100_train here"):
        restore(new_state(), spec(resume=path), [])


def test_unfinished_work_of_another_configuration_is_never_picked_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, new_state(), spec(OTHER_LOSS))
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        restore(new_state(), spec(), [tmp_path])
    assert "loss.recon: 20.0 there, 10.0 here" in caplog.text


def test_a_damaged_newest_checkpoint_costs_only_the_work_since_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = new_state()
    train_a_little(state, 1)
    save(tmp_path, state)
    first = {name: tensor.clone() for name, tensor in everything(state).items()}
    train_a_little(state, 1)
    (save(tmp_path, state) / "ema.safetensors").unlink()
    resumed = new_state(seed=7)
    assert "step 1" in restore(resumed, spec(), [tmp_path])
    assert all(torch.equal(tensor, first[name]) for name, tensor in everything(resumed).items())
    assert "step-2" in caplog.text


def test_a_folder_renamed_to_a_later_step_is_not_the_newest_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = new_state()
    for _ in range(2):
        train_a_little(state, 1)
        save(tmp_path / "own", state)
    (tmp_path / "own/step-1").rename(tmp_path / "own/step-9")
    resumed = new_state()
    restore(resumed, spec(), [tmp_path / "own"])
    assert resumed.progress.step == 2
    assert "step-9 is the checkpoint of step 1, by its manifest: the folder was renamed" in caplog.text


@pytest.mark.parametrize("named", ["resume", "continue_from"])
def test_a_named_checkpoint_is_of_the_step_in_its_name(tmp_path: Path, named: str) -> None:
    state = new_state()
    train_a_little(state, 1)
    saved = save(tmp_path, state)
    renamed = saved.rename(tmp_path / "step-9")
    with pytest.raises(CheckpointError, match="step-9 is the checkpoint of step 1.*Call it step-1 again"):
        restore(new_state(), naming(named, renamed), [])
    copied = renamed.rename(tmp_path / "the good one")
    resumed = new_state()
    restore(resumed, naming(named, copied), [])
    assert resumed.progress.step == 1, "a name without a step contradicts nothing"


def test_nothing_but_damaged_checkpoints_is_never_a_silent_fresh_start(tmp_path: Path) -> None:
    (save(tmp_path, new_state()) / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="move that folder away"):
        restore(new_state(), spec(), [tmp_path])


def test_named_weights_that_have_changed_are_refused(published: Path) -> None:
    with pytest.raises(Exception, match="is not the file that model.weights names"):
        initial_student(with_weights(published, sha256="0" * 64))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_named_weights_that_are_not_finite_are_refused_and_not_answered_with_a_learning_rate(
    tmp_path: Path, value: float
) -> None:
    path = tmp_path / "broken.safetensors"
    weights = create_model(VARIANTS["hunyuan_video"], 1 / 16, "torch_default", seed=5).state_dict()
    next(iter(weights.values())).view(-1)[0] = value
    save_file(weights, path)
    with pytest.raises(UserError, match=r"(?s)broken\.safetensors.*NaN or infinite") as refused:
        initial_student(with_weights(path))
    assert "learning rate" not in str(refused.value)


def test_a_checkpoint_whose_weights_are_not_finite_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = new_state()
    train_a_little(state, 1)
    save(tmp_path, state)
    train_a_little(state, 1)
    with torch.no_grad():
        next(state.ema.parameters()).view(-1)[0] = float("nan")
    save(tmp_path, state)
    resumed = new_state()
    restore(resumed, spec(), [tmp_path])
    assert resumed.progress.step == 1
    assert "step-2/ema.safetensors holds tensors that are no usable weights" in caplog.text


def test_named_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.safetensors"
    write_state_dict(path, create_model(VARIANTS["hunyuan_video"], 1 / 8, "torch_default", seed=0).state_dict())
    with pytest.raises(Exception, match="does not fit hunyuan_video"):
        initial_student(with_weights(path))
