"""The clips that figures and videos show: the first test clip of each source, whatever it looks like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from taehv.data.clip_index import ClipRecord
from taehv.data.clip_store import ClipStore
from taehv.evaluation.test_set import Codec
from taehv.losses.metrics import load_frames, psnr_per_clip
from taehv.model.padding import to_uint8

MAX_EXAMPLES = 8
"""Sources shown; of more, evenly spaced ones."""

MAX_STEM = 80
"""Characters of a source's path in file names, its end, where paths differ; file systems take 255 bytes in all."""

Video = npt.NDArray[np.uint8]
"""(T, H, W, 3) RGB."""


@dataclass(frozen=True)
class Decoded:
    """What one codec makes of a clip."""

    video: Video
    psnr_db: float


@dataclass(frozen=True)
class Example:
    """One clip and its decodings, cut to the frames that they share."""

    record: ClipRecord
    original: Video
    decoded: dict[str, Decoded]
    """By the codec's name, in the order to show."""

    @property
    def file_stem(self) -> str:
        """Usable as a file name however long the source's path is, unique within a split by the clip's number."""
        readable = re.sub(r"[^A-Za-z0-9]+", "_", self.record.source).strip("_")
        return f"{readable[-MAX_STEM:].lstrip('_') or 'clip'}_{self.record.clip_id}"


@torch.no_grad()
def make_examples(store: ClipStore, named: Mapping[str, Codec], device: torch.device) -> list[Example]:
    """Decode the clips to show with every codec, one clip at a time."""
    examples = []
    for record in _records_to_show(store):
        frames = load_frames(store, [record.clip_id], device)
        outputs = {name: codec(frames).float() for name, codec in named.items()}
        length = min(frames.shape[1], *(output.shape[1] for output in outputs.values()))
        decoded = {
            name: Decoded(_to_video(output[:, :length]), float(psnr_per_clip(output[:, :length], frames)))
            for name, output in outputs.items()
        }
        examples.append(Example(record, _to_video(frames[:, :length]), decoded))
    return examples


def _records_to_show(store: ClipStore) -> list[ClipRecord]:
    firsts: dict[str, ClipRecord] = {}
    for record in store.records:
        firsts.setdefault(record.source, record)
    shown = [firsts[source] for source in store.sources]
    every = -(-len(shown) // MAX_EXAMPLES)
    return shown[::every]


def _to_video(frames_ntchw: Tensor) -> Video:
    """The only clip of a batch, clamped and rounded; a value that is not a number is black."""
    video: Video = to_uint8(torch.nan_to_num(frames_ntchw[0], nan=0.0)).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return video
