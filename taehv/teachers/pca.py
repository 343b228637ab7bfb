"""The linear teacher: principal components of space-time blocks, whitened.

Each latent is a linear function of one block of t_downscale frames x spatial_downscale x spatial_downscale pixels:
latent channel c is the block's coordinate on principal component c, divided by its standard deviation on the training
clips. Among all linear codecs with as many numbers this one has the smallest squared error on those clips
(Pearson 1901, Hotelling 1933), which makes it the baseline that a trained codec has to beat.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from taehv.model.checkpoints import check_weights
from taehv.model.variants import Variant
from taehv.runtime import atomic_files
from taehv.runtime.hashing import sha256_of_file
from taehv.runtime.thinning import thin
from taehv.teachers.base import TeacherError, TrainingClips

SCHEMA = 1
TOTAL_BLOCKS = 24_576
"""Blocks of all sources together: 8 for each value of the largest block, 32 for the smaller ones."""

MOST_CLIPS = 4096
"""Clips that are read for it at most: of more, so many evenly spaced ones."""

_GROUP = 2048

# Below this share of the largest variance a component is rounding noise, and whitening would blow it up.
_SMALLEST_RELATIVE_VARIANCE = 1e-9


@dataclass(eq=False)
class PcaTeacher:
    """See the module. Blocks are flattened in the order frame, channel, row, column."""

    WEIGHTS: ClassVar[str] = "pca.safetensors"
    INFO: ClassVar[str] = "teacher.json"
    IS_LINEAR: ClassVar[bool] = True

    variant: Variant
    mean: Tensor
    """(block values,)"""
    components: Tensor
    """(latent channels, block values), orthonormal rows."""
    deviations: Tensor
    """(latent channels,) standard deviation along each component."""

    @property
    def latent_channels(self) -> int:
        return self.variant.latent_channels

    @torch.no_grad()
    def encode(self, frames_ntchw: Tensor) -> Tensor:
        """(N, T, 3, H, W) in [0, 1] to (N, ceil(T / t), C, H / s, W / s); H and W must be multiples of s."""
        with torch.autocast(frames_ntchw.device.type, enabled=False):
            blocks = blocks_of(frames_ntchw.to(self.mean), self.variant)
            return ((blocks - self.mean) @ self.components.T / self.deviations).movedim(-1, 2).contiguous()

    @torch.no_grad()
    def decode(self, latents_ntchw: Tensor) -> Tensor:
        """(N, T, C, h, w) to frames (N, variant.decoded_frames(T), 3, h * s, w * s), unclamped."""
        with torch.autocast(latents_ntchw.device.type, enabled=False):
            coordinates = latents_ntchw.to(self.mean).movedim(2, -1) * self.deviations
            return frames_of(coordinates @ self.components + self.mean, self.variant)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        self.mean = self.mean.to(device, dtype)
        self.components = self.components.to(device, dtype)
        self.deviations = self.deviations.to(device, dtype)
        return self

    @classmethod
    def fit(cls, clips: TrainingClips, frames: int, variant: Variant, folder: Path) -> None:
        """Fit the teacher on training clips and write it into ``folder``.

        The blocks lie on a fixed grid over each source's clips, as many from every source, and are cut from pieces of
        ``frames`` frames, the way the teacher will meet them in training (with the repeated first frame). How many
        clips are read is bounded, so that it takes minutes however many there are.
        """
        fit = fit_pca(_grouped(training_blocks(clips, frames, variant)), variant)
        facts = {
            "blocks": fit.blocks,
            "clips": min(len(clips), MOST_CLIPS),
            "explained_variance": sum(fit.explained_variance),
            "explained_variance_by_component": fit.explained_variance,
        }
        fit.teacher.save(folder, facts)

    @classmethod
    def load(cls, folder: Path, variant: Variant) -> Self:
        """Read what ``save`` wrote.

        Raises:
            TeacherError: a file is missing or damaged, or the teacher was fitted for another variant.
        """
        info = _read_info(folder / cls.INFO)
        if info.get("schema") != SCHEMA or info.get("name") != "pca":
            raise _unusable(f"{folder / cls.INFO} does not describe a PCA teacher of schema {SCHEMA}")
        if info.get("variant") != variant.name:
            raise _unusable(f"the teacher in {folder} was fitted for {info.get('variant')}, not {variant.name}")
        weights = folder / cls.WEIGHTS
        try:
            damaged = sha256_of_file(weights) != info.get("sha256")
            tensors = {} if damaged else load_file(weights)
        except (OSError, SafetensorError) as error:
            raise _unusable(f"{weights} cannot be read: {error}") from error
        check_weights(tensors, str(weights), TeacherError)
        if damaged:
            raise _unusable(f"{weights} is damaged: its sha256 is not the one in {cls.INFO}")
        values = block_values(variant)
        wanted = {
            "mean": (values,),
            "components": (variant.latent_channels, values),
            "deviations": (variant.latent_channels,),
        }
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != wanted:
            raise _unusable(f"{weights} holds {found}, wanted {wanted}")
        return cls(variant, tensors["mean"], tensors["components"], tensors["deviations"])

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write the teacher, and ``facts`` about how it was fitted, into a folder."""
        tensors = {"mean": self.mean, "components": self.components, "deviations": self.deviations}
        with atomic_files.replacing(folder / self.WEIGHTS) as partial:
            save_file({name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}, partial)
        size = self.variant.spatial_downscale
        info = {
            "schema": SCHEMA,
            "name": "pca",
            "variant": self.variant.name,
            "latent_channels": self.latent_channels,
            "block": {"frames": self.variant.t_downscale, "height": size, "width": size},
            "sha256": sha256_of_file(folder / self.WEIGHTS),
            **facts,
        }
        atomic_files.write_json(folder / self.INFO, info)


@dataclass(frozen=True)
class PcaFit:
    teacher: PcaTeacher
    blocks: int
    """Blocks that it was fitted on."""
    explained_variance: list[float]
    """Share of the blocks' variance along each component, largest first."""


def fit_pca(uint8_blocks: Iterable[Tensor], variant: Variant) -> PcaFit:
    """Fit on (n, block values) groups of blocks in 0..255, as ``blocks_of`` gives for uint8 clips.

    Sums of products of integers are exact in float64 up to 2^53 (10^11 blocks), so the covariance does not
    depend on the order of the groups, on threads or on the machine. Signs are fixed: the entry of largest size in
    each component is positive.

    Raises:
        TeacherError: the blocks vary in fewer directions than the variant has latent channels.
    """
    values = block_values(variant)
    count, total, products = 0, torch.zeros(values).double(), torch.zeros(values, values).double()
    for group in uint8_blocks:
        blocks = group.double()
        count += len(blocks)
        total += blocks.sum(0)
        products += blocks.T @ blocks
    if count < 2:
        raise _too_uniform(variant, f"{count} blocks of training video are not enough")
    mean = total / count
    covariance = (products / count - torch.outer(mean, mean)) / 255.0**2
    variances, vectors = (tensor.flip(-1) for tensor in torch.linalg.eigh(covariance))
    kept, components = variances[: variant.latent_channels], vectors[:, : variant.latent_channels].T
    if kept[-1] <= _SMALLEST_RELATIVE_VARIANCE * max(float(kept[0]), _SMALLEST_RELATIVE_VARIANCE):
        raise _too_uniform(variant, "the training clips are too uniform")
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    components = components * largest.sign()
    teacher = PcaTeacher(variant, (mean / 255.0).float(), components.float().contiguous(), kept.sqrt().float())
    return PcaFit(teacher, count, (kept / covariance.trace()).tolist())


def block_values(variant: Variant) -> int:
    """Numbers in one block."""
    return variant.t_downscale * 3 * variant.spatial_downscale**2


def blocks_of(frames_ntchw: Tensor, variant: Variant) -> Tensor:
    """(N, T, 3, H, W) of any type to blocks (N, ceil(T / t), H / s, W / s, block values).

    Latent k stands for frames k * t - trim .. k * t - trim + t - 1: the same trim as in the decoder, so that decoded
    frame j is input frame j. Frame numbers below 0 mean frame 0, those behind the end the last frame.
    """
    n, frames, channels, height, width = frames_ntchw.shape
    t, s = variant.t_downscale, variant.spatial_downscale
    if channels != 3 or height % s or width % s:
        raise ValueError(f"frames must be RGB with height and width multiples of {s}, got {tuple(frames_ntchw.shape)}")
    latents = variant.latent_frames(frames)
    number = torch.arange(latents * t, device=frames_ntchw.device) - variant.frames_to_trim(latents)
    chosen = frames_ntchw[:, number.clamp(0, frames - 1)]
    split = chosen.reshape(n, latents, t, channels, height // s, s, width // s, s)
    return split.permute(0, 1, 4, 6, 2, 3, 5, 7).reshape(n, latents, height // s, width // s, -1)


def frames_of(blocks: Tensor, variant: Variant) -> Tensor:
    """The inverse of ``blocks_of``: (N, T, h, w, block values) to (N, variant.decoded_frames(T), 3, h * s, w * s)."""
    n, latents, rows, columns, _ = blocks.shape
    t, s = variant.t_downscale, variant.spatial_downscale
    split = blocks.reshape(n, latents, rows, columns, t, 3, s, s).permute(0, 1, 4, 5, 2, 6, 3, 7)
    frames = split.reshape(n, latents * t, 3, rows * s, columns * s)
    return frames[:, variant.frames_to_trim(latents) :]


def training_blocks(clips: TrainingClips, frames: int, variant: Variant) -> Iterator[Tensor]:
    """Groups (n, block values) uint8 of blocks, the same number from each source, in one pass over the clips."""
    count = min(len(clips), MOST_CLIPS)
    chosen_clips = [number * len(clips) // count for number in range(count)]
    by_source: dict[int, list[int]] = {}
    for clip_id, source in zip(chosen_clips, clips.source_numbers(chosen_clips).tolist(), strict=True):
        by_source.setdefault(source, []).append(clip_id)
    positions = len(_clip_blocks(clips, 0, frames, variant))
    fewest_clips = min(len(clip_ids) for clip_ids in by_source.values())
    per_source = min(max(TOTAL_BLOCKS // len(by_source), 1), fewest_clips * positions)
    for clip_ids in by_source.values():
        wanted: dict[int, list[int]] = {}
        for clip, position in thin(len(clip_ids), positions, per_source):
            wanted.setdefault(clip, []).append(position)
        for clip, chosen in wanted.items():
            yield _clip_blocks(clips, clip_ids[clip], frames, variant)[chosen]


def _clip_blocks(clips: TrainingClips, clip_id: int, frames: int, variant: Variant) -> Tensor:
    """All blocks (n, block values) of one clip's successive pieces of ``frames`` frames."""
    clip = torch.tensor(clips.clip(clip_id))
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


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(f"{path} cannot be read: {error}") from error
    return info if isinstance(info, dict) else {}


def _unusable(problem: str) -> TeacherError:
    return TeacherError(f"{problem}. Make the teacher again with `dvc repro -f prepare_data`.")


def _too_uniform(variant: Variant, problem: str) -> TeacherError:
    wanted = f"{variant.latent_channels} principal components of {variant.name}"
    return TeacherError(f"{problem} for {wanted}. Add videos to data/manifest.")
