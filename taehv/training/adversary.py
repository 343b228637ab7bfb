"""The discriminator's side of a step: corrections for the student, one update per global step, its memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from taehv.config.params import Seraena
from taehv.losses import seraena
from taehv.losses.metrics import common_frames
from taehv.losses.objective import Outputs
from taehv.model.compilation import Compiled
from taehv.model.formulations import TRAINING
from taehv.model.variants import Variant
from taehv.runtime.counter_random import Purpose, below, words
from taehv.training.replay import Replay, Sample

Shown = tuple[Tensor, Tensor, Tensor]
"""What it is shown: decoded frames, their originals and the latents they were decoded from, without a gradient."""

BETAS = (0.9, 0.99)
"""Of the discriminator's AdamW, as in the reference implementation."""


@dataclass(frozen=True)
class Seen:
    """What the discriminator learns from a micro-batch: groups of frames with their latents, real or decoded."""

    groups: Tensor
    latents: Tensor
    is_decoded: Tensor


class Adversary:
    """Discriminator, its optimizer, and the replay memory of this process's slots.

    In step s, corrections are made and gradients are accumulated with the discriminator of step s - 1, whatever the
    micro-batches; ``finish_step`` then updates it once.
    """

    def __init__(
        self,
        params: Seraena,
        variant: Variant,
        *,
        seed: int,
        slots: Sequence[int],
        global_batch: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            discriminator = seraena.Discriminator(3 * params.group_frames, variant.latent_channels, params.width)
        self.params = params
        self.slots = slots
        self._discriminator = discriminator.to(device, dtype)
        self._optimizer = torch.optim.AdamW(discriminator.parameters(), lr=params.lr, betas=BETAS, fused=True)
        self._judge = _frozen_twin(self._discriminator)
        self._distance: seraena.Distance = seraena.distance_of_scores
        self._lesson = seraena.lesson
        if TRAINING[device.type].compiled:
            self._distance = Compiled(seraena.distance_of_scores, "the corrections")
            self._lesson = Compiled(seraena.lesson, "the discriminator's lesson")
        self._variant = variant
        self._seed = seed
        self._global_batch = global_batch
        self._device = device
        bytes_per_slot = params.replay_mib * 2**20 // global_batch
        self.replay_bytes = bytes_per_slot * len(slots)
        self._replay = Replay(bytes_per_slot)
        self._to_remember: list[tuple[int, Sample, int]] = []
        self._losses: list[Tensor] = []

    def term(self, outputs: Outputs, frames_ntchw: Tensor) -> tuple[Tensor, Shown]:
        """The adversarial term of each clip, (N,), and what ``accumulate`` learns from."""
        assert outputs.decoded is not None
        assert outputs.latents is not None
        shown = outputs.decoded.detach(), frames_ntchw, outputs.latents.detach()
        value = seraena.seraena_per_clip(outputs.decoded, self.corrections(*shown))
        # Under autocast it comes in 16 bits; the other terms compare with frames or latents of full precision.
        return value.to(frames_ntchw.dtype), shown

    def corrections(self, decoded_ntchw: Tensor, frames_ntchw: Tensor, latents_ntchw: Tensor) -> Tensor:
        """For decoded frames of some clips, their originals and the latents they were decoded from."""
        by_clip = self._grouped(decoded_ntchw, frames_ntchw, latents_ntchw)
        decoded, real, latents = (groups.flatten(0, 1) for groups in by_clip)
        corrections = seraena.correction(self._judge, decoded, real, latents, self._distance)
        return seraena.ungroup_frames(corrections.unflatten(0, by_clip[0].shape[:2]), self.params.group_frames)

    def accumulate(
        self, step: int, slots: Sequence[int], decoded_ntchw: Tensor, frames_ntchw: Tensor, latents_ntchw: Tensor
    ) -> None:
        """Add to the discriminator's gradient what these slots teach it, and note what they will remember."""
        decoded, real, latents = self._grouped(decoded_ntchw, frames_ntchw, latents_ntchw)
        seen = self._draw(step, slots, decoded, real, latents)
        total = self._lesson(self._discriminator, seen.groups, seen.latents, seen.is_decoded)
        (total / (self._global_batch * decoded.shape[1])).backward()
        self._losses.append(total.detach() / decoded.shape[1])

    def reduce(self, accelerator: Accelerator) -> float:
        """Sum gradients over the processes; returns the discriminator's loss, NaN where a gradient is not finite."""
        parameters = list(self._discriminator.parameters())
        own = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
        summed = accelerator.reduce(own, reduction="sum")
        for parameter, gradient in zip(parameters, summed.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = gradient.view_as(parameter)
        loss = float(accelerator.reduce(torch.stack(self._losses).sum(), reduction="sum")) / self._global_batch
        return loss if bool(summed.isfinite().all()) else math.nan

    def finish_step(self, *, skipped: bool) -> None:
        """Update the discriminator and remember this step's samples; a skipped step leaves no trace."""
        if not skipped:
            self._optimizer.step()
            for slot, sample, index_if_full in self._to_remember:
                self._replay.remember(slot, sample, index_if_full)
        self._optimizer.zero_grad(set_to_none=True)
        self._to_remember, self._losses = [], []

    def _grouped(self, decoded: Tensor, frames: Tensor, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All three as (N, groups, C, H, W), without a gradient."""
        size = self.params.group_frames
        decoded, frames = common_frames(decoded.detach(), frames)
        groups = seraena.group_frames(decoded, size)
        real = seraena.group_frames(frames, size)
        return groups, real, seraena.latents_per_group(latents.detach(), self._variant, groups.shape[1], size)

    def _draw(self, step: int, slots: Sequence[int], decoded: Tensor, real: Tensor, latents: Tensor) -> Seen:
        """Half of what the discriminator sees is real; of the rest, half is remembered, where there is a memory."""
        groups, conditions, is_decoded = [], [], []
        count = decoded.shape[1]
        for row, slot in enumerate(slots):
            kept, place, *draws = words(self._seed, Purpose.REPLAY, (step, slot), 2 + 2 * count)
            remembered = self._replay.size(slot)
            for group in range(count):
                kind, index = below(draws[2 * group], 4), draws[2 * group + 1]
                if kind == 0 and remembered:
                    sample = self._replay.recall(slot, below(index, remembered))
                    groups.append(sample.groups)
                    conditions.append(sample.latents)
                else:
                    groups.append((decoded if kind < 2 else real)[row, group])
                    conditions.append(latents[row, group])
                is_decoded.append(kind < 2)
            keep = below(kept, count)
            new = Sample(decoded[row, keep].clone(), latents[row, keep].clone())
            self._to_remember.append((slot, new, below(place, max(1, remembered))))
        kinds = torch.tensor(is_decoded, pin_memory=self._device.type == "cuda").to(self._device, non_blocking=True)
        return Seen(torch.stack(groups), torch.stack(conditions), kinds)

    def state_tensors(self) -> dict[str, Tensor]:
        """Weights and optimizer state; the same on every process."""
        weights = {f"discriminator.{name}": tensor for name, tensor in self._discriminator.state_dict().items()}
        state = self._optimizer.state_dict()["state"]
        return weights | {
            f"optimizer.{index}.{key}": value for index, values in state.items() for key, value in values.items()
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what ``state_tensors`` gave.

        Raises:
            RuntimeError: the weights are of another discriminator.
        """
        weights = {name.removeprefix("discriminator."): t for name, t in tensors.items() if name.startswith("disc")}
        self._discriminator.load_state_dict(weights, strict=True)
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = tensor
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})

    def remembered(self) -> dict[str, tuple[Sample, ...]]:
        """The memory of this process's slots: one file name per slot, so that any number of processes can read it."""
        by_slot = {slot: self._replay.samples(slot) for slot in self.slots}
        return {_replay_file(slot): samples for slot, samples in by_slot.items() if samples}

    def load_replay(self, folder: Path) -> None:
        """Read the memory of this process's slots; a slot without a file has none yet."""
        for slot in self.slots:
            if (folder / _replay_file(slot)).exists():
                remembered = load_file(folder / _replay_file(slot))
                self._replay.restore(slot, {name: tensor.to(self._device) for name, tensor in remembered.items()})


def _frozen_twin(discriminator: seraena.Discriminator) -> seraena.Discriminator:
    """The same weights in the same memory, which want no gradient: who makes corrections computes none for them."""
    twin = copy.deepcopy(discriminator).requires_grad_(False)
    for own, shared in zip(twin.parameters(), discriminator.parameters(), strict=True):
        own.data = shared.data
    return twin


def _replay_file(slot: int) -> str:
    return f"replay-{slot}.safetensors"
