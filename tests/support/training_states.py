"""States to save and load: a tiny model that has trained a little, with its adversary."""

from __future__ import annotations

from pathlib import Path

import torch
from support.project import REPOSITORY

from taehv.config.params import Params, TrainingStage, load_params
from taehv.config.profiles import load_profile
from taehv.data.dataset import Dataset
from taehv.losses.seraena import seraena_per_clip
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS
from taehv.training.adversary import Adversary
from taehv.training.checkpoint_writer import CheckpointWriter
from taehv.training.replay import as_tensors
from taehv.training.run_spec import RunSpec
from taehv.training.state import TrainingState

PARAMS = load_params(REPOSITORY / "params.yaml")


def spec(
    params: Params = PARAMS,
    continue_from: Path | None = None,
    dataset: str = "d",
    resume: Path | None = None,
    stage: TrainingStage = "h100_train",
) -> RunSpec:
    profile = load_profile("local", REPOSITORY / "profiles")
    return RunSpec(stage, params, profile, Dataset(dataset, "t", Path("clips")), Path("teacher"), continue_from, resume)


def save(folder: Path, state: TrainingState, of: RunSpec | None = None) -> Path:
    writer = CheckpointWriter(of or spec(), 0, 1)
    writer.save(folder, state)
    writer.close()
    return folder / f"step-{state.progress.step}"


def new_state(seed: int = 0, width: float = 1 / 16, params: Params = PARAMS) -> TrainingState:
    variant = VARIANTS["hunyuan_video"]
    adversary = Adversary(
        params.active.seraena.model_copy(update={"replay_mib": 1}),
        variant,
        seed=params.seed,
        slots=range(2),
        global_batch=2,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    return TrainingState(create_model(variant, width, "torch_default", seed), params.active.optim, adversary)


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
