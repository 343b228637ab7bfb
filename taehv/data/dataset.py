"""data/dataset.json: what a dataset is made of, and the hash that identifies it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taehv.config.params import Params
from taehv.data.clip_plan import DatasetPlan
from taehv.data.clip_store import ClipRecord, dataset_sha256
from taehv.data.csv_cells import csv_text, path_cell, text_cell
from taehv.data.inspect_video import Quarantined
from taehv.data.splits import SPLITS
from taehv.runtime import atomic_files
from taehv.runtime.hashing import sha256_of_file
from taehv.teachers.base import teacher_class

SCHEMA = 1


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
