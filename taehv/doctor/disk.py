"""Free space, file system by file system, against what the run will write there."""

from __future__ import annotations

import configparser
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from taehv.config.params import Params
from taehv.data.manifest import ManifestError, read_manifest
from taehv.doctor.check import Check, size
from taehv.doctor.context import RunContext
from taehv.doctor.planned_writes import PlannedWrites, planned_writes
from taehv.runtime import paths
from taehv.tracking.store import local_artifacts

ENOUGH = 2.0
"""Free space, as a multiple of what will be written, below which the disk gets a warning."""
ADVICE = (
    "free some space; or raise the scale's checkpoint.every or lower seraena.replay_mib in params.yaml (a new run); or "
    "move DVC's cache (dvc cache dir) or let it link (dvc config cache.type hardlink)"
)
LINKS = ("hardlink", "symlink")


@dataclass(frozen=True)
class Need:
    """What one folder will receive."""

    name: str
    folder: Path
    bytes: int


def check_disk(context: RunContext) -> list[Check]:
    """One line per file system, and one for clips that are still to be made."""
    planned = [planned_writes(context.spec(stage)) for stage in context.stages]
    needs = [need for writes in planned for need in needs_of(writes)]
    return [*judge_disks(needs), *_check_room_for_clips(context)]


def needs_of(writes: PlannedWrites) -> Iterator[Need]:
    """Where a stage's bytes go. Outputs are hard links to the finished work where both are on one file system."""
    work = paths.main_repository() / ".work"
    yield Need(".work", work, writes.published + writes.rolling)
    together = _device(work) == _device(paths.RUNS)
    yield Need("runs", paths.RUNS, 0 if together else writes.published)
    cache, links = dvc_cache()
    yield Need("DVC cache", cache, 0 if links else writes.published)
    artifacts = local_artifacts()
    if artifacts is not None:
        yield Need("MLflow artifacts", artifacts, writes.best_model)


def judge_disks(needs: list[Need]) -> list[Check]:
    """Needs on the same file system add up."""
    check_results = []
    for device in dict.fromkeys(_device(need.folder) for need in needs):
        here = [need for need in needs if _device(need.folder) == device]
        names = list(dict.fromkeys(need.name for need in here))
        place = existing(here[0].folder)
        needed, free = sum(need.bytes for need in here), shutil.disk_usage(place).free
        detail = f"{', '.join(names)}: {size(needed)} to be written, {size(free)} free"
        read_only = [need.name for need in here if not os.access(existing(need.folder), os.W_OK)]
        if read_only:
            advice = "make it writable for this user, or mount it for writing"
            check_results.append(Check("disk", "fail", f"{', '.join(read_only)} cannot be written", advice))
        elif free < needed:
            check_results.append(Check("disk", "fail", detail, ADVICE))
        elif free < ENOUGH * needed:
            check_results.append(Check("disk", "warn", f"{detail}: less than {ENOUGH:g} times as much", ADVICE))
        else:
            check_results.append(Check("disk", "pass", detail))
    return check_results


def _check_room_for_clips(context: RunContext) -> list[Check]:
    """Only a warning: this is the most that they can take, and prepare_data measures exactly before it writes."""
    if context.dataset is not None or not context.whole_pipeline:
        return []
    try:
        videos = len(read_manifest(paths.MANIFEST))
    except ManifestError:
        return []  # the line about the data says so
    needed, free = most_clip_bytes(context.params, videos), shutil.disk_usage(existing(paths.DATA)).free
    detail = f"clips of {videos} videos: at most {size(needed)}, and as much in DVC's cache; {size(free)} free"
    if free < 2 * needed:
        return [
            Check(
                "disk for clips",
                "warn",
                detail,
                "free some space, or lower clips_per_video or max_clips in params.yaml",
            )
        ]
    return [Check("disk for clips", "pass", detail)]


def most_clip_bytes(params: Params, videos: int) -> int:
    """Bytes of all clips where every video gives as many as it may."""
    data = params.active.data
    clips = min(videos * data.clips_per_video, data.max_clips)
    train = 3 * data.canvas_frames * data.canvas_height * data.canvas_width * clips
    held_out = 3 * data.frames * data.height * data.width * params.active.validation.samples
    return train + 2 * held_out


def dvc_cache() -> tuple[Path, bool]:
    """DVC's cache, and whether it links outputs instead of copying them; read from the repository's DVC config."""
    folder, links = paths.main_repository() / ".dvc" / "cache", False
    for name in ("config", "config.local"):
        path = paths.main_repository() / ".dvc" / name
        config = configparser.ConfigParser(interpolation=None)
        config.read(path, encoding="utf-8")
        if config.has_option("cache", "dir"):
            folder = path.parent / config.get("cache", "dir")
        if config.has_option("cache", "type"):
            links = config.get("cache", "type").split(",")[0].strip() in LINKS
    return folder, links


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there already."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _device(folder: Path) -> int:
    return existing(folder).stat().st_dev
