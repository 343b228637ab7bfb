"""What the discriminator is shown again: earlier decodings, remembered per slot, within a bound in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """A group of frames and the latents it belongs to."""

    groups: Tensor
    """(C, H, W)"""
    latents: Tensor
    """(c, h, w)"""

    @property
    def bytes(self) -> int:
        return self.groups.nbytes + self.latents.nbytes


class Replay:
    """Earlier samples of this process's slots.

    A slot sees only its own history, and its share of the memory is the whole divided by the global batch: what it
    is shown depends neither on the number of processes nor on the micro-batches.
    """

    def __init__(self, bytes_per_slot: int) -> None:
        self._bytes_per_slot = bytes_per_slot
        self._by_slot: dict[int, list[Sample]] = {}

    def size(self, slot: int) -> int:
        """How many samples a slot remembers."""
        return len(self._by_slot.get(slot, ()))

    def recall(self, slot: int, index: int) -> Sample:
        return self._by_slot[slot][index]

    def remember(self, slot: int, sample: Sample, index_if_full: int) -> None:
        """Add a sample; when the slot's memory is full, in the place of an earlier one."""
        samples = self._by_slot.setdefault(slot, [])
        if (len(samples) + 1) * sample.bytes <= self._bytes_per_slot:
            samples.append(sample)
        else:
            samples[index_if_full] = sample

    def samples(self, slot: int) -> tuple[Sample, ...]:
        """All that a slot remembers. No sample is ever changed, so they stay as they are while training goes on."""
        return tuple(self._by_slot.get(slot, ()))

    def restore(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Take over what ``as_tensors`` made of a slot's samples."""
        pairs = zip(tensors["groups"], tensors["latents"], strict=True)
        self._by_slot[slot] = [Sample(groups.clone(), latents.clone()) for groups, latents in pairs]


def as_tensors(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """At least one sample, as one tensor of groups and one of latents, on the CPU."""
    # Stacked there: training needs the GPU's memory, and this runs at the same time.
    return {
        "groups": torch.stack([sample.groups.cpu() for sample in samples]),
        "latents": torch.stack([sample.latents.cpu() for sample in samples]),
    }
