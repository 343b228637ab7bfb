"""The adversary's part of a step: one update per step, memory per slot, equal however the slots are shared out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from taehv.config.params import Seraena
from taehv.model.variants import VARIANTS
from taehv.training.adversary import Adversary
from taehv.training.replay import Replay, Sample, as_tensors

PARAMS = Seraena(start_step=1, ramp_steps=0, group_frames=3, width=4, lr=1e-2, replay_mib=1)
SLOTS = range(4)


def adversary(slots: Sequence[int] = SLOTS, dtype: torch.dtype = torch.float64) -> Adversary:
    device = torch.device("cpu")
    return Adversary(PARAMS, VARIANTS["hunyuan_video"], seed=7, slots=slots, global_batch=4, device=device, dtype=dtype)


def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Decoded frames, originals (of 12 frames, 9 are decoded) and latents of all slots."""
    generator = torch.Generator().manual_seed(step)
    frames = torch.rand(4, 12, 3, 16, 16, generator=generator, dtype=torch.float64)
    decoded = 0.5 * frames[:, :9] + 0.2
    return decoded, frames, torch.randn(4, 3, 16, 2, 2, generator=generator, dtype=torch.float64)


def do_step(who: Adversary, step: int, groups: Sequence[Sequence[int]], *, skipped: bool = False) -> float:
    everything = batch(step)
    for slots in groups:
        who.accumulate(step, slots, *(tensor[list(slots)] for tensor in everything))
    loss = who.reduce(Accelerator(cpu=True))
    who.finish_step(skipped=skipped)
    return loss


def weights(who: Adversary) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in who.state_tensors().values()])


def memory(who: Adversary) -> dict[str, Tensor]:
    by_file = {file: as_tensors(samples) for file, samples in who.remembered().items()}
    return {f"{file} {name}": tensor for file, tensors in by_file.items() for name, tensor in tensors.items()}


def test_micro_batches_change_neither_the_update_nor_the_memory() -> None:
    whole, split = adversary(), adversary()
    for step in range(1, 6):
        assert do_step(whole, step, [SLOTS]) == pytest.approx(do_step(split, step, [[0, 1, 2], [3]]), rel=1e-12)
    torch.testing.assert_close(weights(whole), weights(split), rtol=1e-9, atol=1e-12)
    ours, theirs = memory(whole), memory(split)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_discriminator_learns_to_tell_decoded_from_real() -> None:
    who = adversary()
    losses = [do_step(who, step, [SLOTS]) for step in range(1, 61)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_it_is_updated_once_per_step_and_corrections_are_those_of_the_step_before() -> None:
    who = adversary()
    decoded, frames, latents = batch(1)
    before = who.corrections(decoded, frames, latents)
    who.accumulate(1, SLOTS, decoded, frames, latents)
    assert torch.equal(who.corrections(decoded, frames, latents), before)
    who.reduce(Accelerator(cpu=True))
    who.finish_step(skipped=False)
    assert not torch.equal(who.corrections(decoded, frames, latents), before)


def test_a_skipped_step_leaves_no_trace() -> None:
    who, other = adversary(), adversary()
    do_step(who, 1, [SLOTS], skipped=True)
    assert torch.equal(weights(who), weights(other))
    assert who.remembered() == {}
    assert do_step(who, 2, [SLOTS]) == do_step(other, 2, [SLOTS])


def test_a_gradient_that_is_not_finite_is_reported_as_a_loss_that_is_not() -> None:
    who = adversary()
    decoded, frames, latents = batch(1)
    who.accumulate(1, SLOTS, decoded * float("nan"), frames, latents)
    assert math.isnan(who.reduce(Accelerator(cpu=True)))


def test_a_slot_is_shown_only_its_own_history() -> None:
    """Slot 0 alone does, with slot 0's samples, exactly what it does among four."""
    among, alone = adversary(), adversary(slots=[0])
    for step in range(1, 9):
        do_step(among, step, [SLOTS])
        do_step(alone, step, [[0]])
    (file,) = alone.remembered()
    assert torch.equal(as_tensors(among.remembered()[file])["groups"], as_tensors(alone.remembered()[file])["groups"])


def test_the_memory_is_bounded_in_bytes_and_goes_on_changing_when_full() -> None:
    replay = Replay(bytes_per_slot=1000)
    for number in range(20):
        replay.remember(3, Sample(torch.full((50,), float(number)), torch.zeros(25)), number % 3)
    held = as_tensors(replay.samples(3))
    assert sum(tensor.nbytes for tensor in held.values()) <= 1000
    assert replay.size(3) == 3
    assert sorted(held["groups"][:, 0].tolist()) == [17.0, 18.0, 19.0]
