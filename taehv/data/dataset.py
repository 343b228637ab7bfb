"""data/dataset.json: what a dataset is made of, and the hash that identifies it; its one reader."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from taehv.config.params import Params
from taehv.data.clip_codec import Fidelity
from taehv.data.clip_index import ClipIndex
from taehv.data.clip_plan import DatasetPlan
from taehv.data.clip_store import ClipStore, open_index
from taehv.data.inspect_video import Quarantined
from taehv.data.manifest import csv_text, path_cell, text_cell
from taehv.data.splits import SPLITS, SplitName
from taehv.data.store_files import SHARDS, StoreError, StoreFiles, store_error
from taehv.runtime import atomic_files, paths
from taehv.runtime.hashing import sha256_of_file
from taehv.teachers.base import teacher_class

SCHEMA = 2
FIRST_SOURCES = 3
"""Of each split, so many videos are named; the index lists them all."""


@dataclass(frozen=True)
class Dataset:
    """The prepared data. A stage opens it once and passes it on; the index of clips is opened once, when asked for."""

    sha256: str
    """Identifies it, as dataset.json states."""
    teacher_sha256: str
    """Of the teacher's weights, as dataset.json states."""
    clips: Path
    """The clip store."""

    @classmethod
    def open(cls, file: Path = paths.DATASET) -> Dataset:
        """What dataset.json says; the clips are beside it.

        Raises:
            StoreError: as ``read_dataset_json``.
        """
        facts = read_dataset_json(file)
        return cls(facts["dataset_sha256"], facts["teacher_sha256"], file.with_name(paths.CLIPS.name))

    @cached_property
    def files(self) -> StoreFiles:
        """The list of the store's files.

        Raises:
            StoreError: as ``StoreFiles.read``.
        """
        return StoreFiles.read(self.clips)

    @cached_property
    def index(self) -> ClipIndex:
        """The clips of all splits, as stored.

        Raises:
            StoreError: as ``open_index``.
        """
        return open_index(self.clips, self.files)

    @property
    def matches(self) -> bool:
        """Whether the files are listed as dataset.json describes them."""
        return self.files.sha256_with(self.teacher_sha256) == self.sha256

    def split(self, name: SplitName, *, verify_reads: bool = True) -> ClipStore:
        """The clips of one split.

        Raises:
            StoreError: as ``ClipStore.open``, or the files are not those that dataset.json describes.
        """
        if not self.matches:
            file = self.clips.with_name(paths.DATASET.name)
            raise store_error(self.clips, self.clips / SHARDS, f"is not the list of files that {file} describes")
        return ClipStore.open(self.clips, name, verify_reads=verify_reads, index=self.index)


def read_dataset_json(file: Path) -> dict[str, Any]:
    """What ``describe_dataset`` wrote, as far as it says which dataset it is.

    Raises:
        StoreError: it is missing or unreadable: prepare_data has not run.
    """
    try:
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return {**facts, **{name: str(facts[name]) for name in ("dataset_sha256", "teacher_sha256")}}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(
            f"{file} cannot be read: {error!r}. Restore it with: dvc checkout --force {file}\n"
            "Where DVC does not have it: dvc repro -f prepare_data"
        ) from error


def describe_dataset(
    params: Params, plan: DatasetPlan, files: StoreFiles, fidelity: Fidelity, quarantined: int, teacher: Path
) -> dict[str, Any]:
    """The content of dataset.json. It depends on the clips and the teacher alone, not on time, machine or workers.

    Nothing in it grows with the number of videos: it is logged with every run.
    """
    data = params.active.data
    teacher_sha256 = sha256_of_file(teacher / teacher_class(params.active.teacher.name).WEIGHTS)
    return {
        "schema": SCHEMA,
        "dataset_sha256": files.sha256_with(teacher_sha256),
        "teacher_sha256": teacher_sha256,
        "split_rule": plan.rule,
        "splits": {split: _split_facts(plan, files, split) for split in SPLITS},
        "sizes": {
            "train_clip": [data.canvas_frames, 3, data.canvas_height, data.canvas_width],
            "held_out_clip": [data.frames, 3, data.height, data.width],
        },
        "bytes": plan.bytes,
        "stored_bytes": sum(shard.bytes for shard in files.shards.values()),
        "codec": data.store.codec,
        "psnr_db": fidelity.facts(),
        "videos": len(plan.videos),
        "quarantined": quarantined,
    }


def write_quarantine(path: Path, quarantined: Sequence[Quarantined]) -> None:
    """Write quarantine.csv: every video that was left out, and why. Nothing in it is a formula to a spreadsheet."""
    header = [field.name for field in dataclasses.fields(Quarantined)]
    rows = ([path_cell(video.path), video.reason, text_cell(video.detail)] for video in quarantined)
    atomic_files.write_text(path, csv_text([header, *rows]))


def _split_facts(plan: DatasetPlan, files: StoreFiles, split: SplitName) -> dict[str, Any]:
    shards = files.of_split(split)
    sources = (video.video.entry.path for video in plan.videos if any(clip.split == split for clip in video.clips))
    first = list(islice(sources, FIRST_SOURCES))
    return {
        "clips": sum(shard.clips for shard in shards),
        "shards": len(shards),
        "videos": len(first) + sum(1 for _ in sources),
        "first_videos": first,
    }
