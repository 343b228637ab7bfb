"""data/dataset.json: what a dataset is made of, and the hash that identifies it; its one reader."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from taehv.config.params import Params
from taehv.data.clip_plan import DatasetPlan
from taehv.data.clip_store import INDEX, ClipRecord, ClipStore, StoreError, read_index, store_error
from taehv.data.inspect_video import Quarantined
from taehv.data.manifest import csv_text, path_cell, text_cell
from taehv.data.splits import SPLITS, SplitName
from taehv.runtime import atomic_files, paths
from taehv.runtime.hashing import sha256_of_file, sha256_of_json
from taehv.teachers.base import teacher_class

SCHEMA = 1


@dataclass(frozen=True)
class Dataset:
    """The prepared data. A stage opens it once and passes it on; the index of clips is read once, when asked for."""

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
    def index(self) -> list[ClipRecord]:
        """The clips of all splits, as stored.

        Raises:
            StoreError: as ``read_index``.
        """
        return read_index(self.clips)

    @cached_property
    def index_matches(self) -> bool:
        """Whether the index is the one that dataset.json describes."""
        return dataset_sha256(self.index, self.teacher_sha256) == self.sha256

    def split(self, name: SplitName, *, verify_reads: bool = True) -> ClipStore:
        """The clips of one split.

        Raises:
            StoreError: as ``ClipStore.open``, or the index is not the one that dataset.json describes.
        """
        if not self.index_matches:
            file = self.clips.with_name(paths.DATASET.name)
            raise store_error(self.clips, self.clips / INDEX, f"is not the index that {file} describes")
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


def dataset_sha256(index: Sequence[ClipRecord], teacher_sha256: str) -> str:
    """The hash of the index, which holds every clip's hash, in order, and of the teacher."""
    return sha256_of_json({"clips": [dataclasses.asdict(record) for record in index], "teacher": teacher_sha256})


def describe_dataset(
    params: Params, plan: DatasetPlan, records: Sequence[ClipRecord], quarantined: int, teacher: Path
) -> dict[str, Any]:
    """The content of dataset.json. It depends on the clips and the teacher alone, not on time, machine or workers."""
    data = params.active.data
    teacher_sha256 = sha256_of_file(teacher / teacher_class(params.active.teacher.name).WEIGHTS)
    return {
        "schema": SCHEMA,
        "dataset_sha256": dataset_sha256(records, teacher_sha256),
        "teacher_sha256": teacher_sha256,
        "split_rule": plan.rule,
        "splits": {split: _split_facts([r for r in records if r.split == split]) for split in SPLITS},
        "sizes": {
            "train_clip": [data.canvas_frames, 3, data.canvas_height, data.canvas_width],
            "held_out_clip": [data.frames, 3, data.height, data.width],
        },
        "bytes": plan.bytes,
        "videos": [
            {
                "path": video.video.entry.path,
                "sha256": video.video.entry.sha256,
                "frames": video.video.info.frames,
                "height": video.video.info.height,
                "width": video.video.info.width,
                "clips": {split: sum(clip.split == split for clip in video.clips) for split in SPLITS},
            }
            for video in plan.videos
        ],
        "unused": [],  # every usable video has clips; the key stays for those who read this schema
        "quarantined": quarantined,
    }


def write_quarantine(path: Path, quarantined: Sequence[Quarantined]) -> None:
    """Write quarantine.csv: every video that was left out, and why. Nothing in it is a formula to a spreadsheet."""
    header = [field.name for field in dataclasses.fields(Quarantined)]
    rows = ([path_cell(video.path), video.reason, text_cell(video.detail)] for video in quarantined)
    atomic_files.write_text(path, csv_text([header, *rows]))


def _split_facts(records: Sequence[ClipRecord]) -> dict[str, Any]:
    return {"clips": len(records), "sources": sorted({record.source for record in records})}
