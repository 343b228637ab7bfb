"""Fitting the linear teacher on the stored training clips."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from taehv.data.clip_grid import thin
from taehv.data.clip_store import ClipStore
from taehv.model.variants import Variant
from taehv.teachers.pca import blocks_of, fit_pca

TOTAL_BLOCKS = 24_576
"""Blocks of all sources together: 8 for each value of the largest block, 32 for the smaller ones."""

_GROUP = 2048


def fit_teacher(store: ClipStore, frames: int, variant: Variant, folder: Path) -> None:
    """Fit the teacher on training clips and write it into ``folder``.

    The blocks lie on a fixed grid over each source's clips, as many from every source, and are cut from pieces of
    ``frames`` frames, the way the teacher will meet them in training (with the repeated first frame).
    """
    fit = fit_pca(_grouped(training_blocks(store, frames, variant)), variant)
    facts = {
        "blocks": fit.blocks,
        "sources": list(store.sources),
        "explained_variance": sum(fit.explained_variance),
        "explained_variance_by_component": fit.explained_variance,
    }
    fit.teacher.save(folder, facts)


def training_blocks(store: ClipStore, frames: int, variant: Variant) -> Iterator[Tensor]:
    """Groups (n, block values) uint8 of blocks, the same number from each source."""
    by_source = {source: [r.clip_id for r in store.records if r.source == source] for source in store.sources}
    positions = len(_clip_blocks(store, 0, frames, variant))
    fewest_clips = min(len(clip_ids) for clip_ids in by_source.values())
    per_source = min(max(TOTAL_BLOCKS // len(by_source), 1), fewest_clips * positions)
    for clip_ids in by_source.values():
        wanted: dict[int, list[int]] = {}
        for clip, position in thin(len(clip_ids), positions, per_source):
            wanted.setdefault(clip, []).append(position)
        for clip, chosen in wanted.items():
            yield _clip_blocks(store, clip_ids[clip], frames, variant)[chosen]


def _clip_blocks(store: ClipStore, clip_id: int, frames: int, variant: Variant) -> Tensor:
    """All blocks (n, block values) of one clip's successive pieces of ``frames`` frames."""
    clip = torch.tensor(store.clip(clip_id))
    size = variant.spatial_downscale
    height, width = (length // size * size for length in clip.shape[-2:])
    pieces = len(clip) // frames
    cut = clip[: pieces * frames, :, :height, :width].unflatten(0, (pieces, frames))
    return blocks_of(cut, variant).flatten(0, 3)


def _grouped(groups: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same rows in fewer, larger groups: one large matrix product is much faster than many small ones."""
    waiting: list[Tensor] = []
    for group in groups:
        waiting.append(group)
        if sum(map(len, waiting)) >= _GROUP:
            yield torch.cat(waiting)
            waiting = []
    if waiting:
        yield torch.cat(waiting)
