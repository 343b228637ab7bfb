"""prepare_data: from the videos of the manifest to the clip store, the teacher and dataset.json."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from taehv.config.params import ClipCodecName, Params
from taehv.config.profiles import Profile
from taehv.data.clip_codec import Fidelity
from taehv.data.clip_plan import DatasetPlan, plan_dataset
from taehv.data.clip_store import ClipStore, complete_store
from taehv.data.dataset import describe_dataset, write_quarantine
from taehv.data.extract_clips import CutFailed, UnusableVideos, WrittenShards, cut_shards
from taehv.data.finished_shards import FinishedShards
from taehv.data.inspect_video import Quarantined, Video, inspect_video
from taehv.data.manifest import read_manifest
from taehv.data.ray_workers import RayWorkers
from taehv.data.remote_shards import RemoteShards
from taehv.data.shard_plan import ShardPlan, Starts, shard_plans, shard_starts
from taehv.data.sources import open_source
from taehv.data.splits import SPLITS
from taehv.data.workers import Mapper, Workers
from taehv.model.variants import VARIANTS
from taehv.runtime import atomic_files, paths
from taehv.runtime.errors import UserError
from taehv.runtime.failpoints import Failpoint, failpoint
from taehv.runtime.machine import available_cores
from taehv.runtime.user_files import shown
from taehv.teachers.base import teacher_class

# Room on the disk for the index, the teacher and file system overhead.
_DISK_MARGIN_BYTES = 64 * 2**20
_LEAST_RATIO: Mapping[ClipCodecName, int] = {"raw": 1, "lossless": 1, "near-lossless": 2}
"""How many times smaller than raw real clips are at least; where that is too little, writing them is what fails."""
_MOST_NOT_UPLOADED = 16
"""Shards that the disk must have room for where they go to an object store: those that are being written, and some."""
_LISTED = 20
"""Left-out videos that are named on the screen."""


class NoDatasetError(UserError):
    """The videos do not make a dataset; the message lists why each is left out, and what to change."""


def prepare(params: Params, profile: Profile, code: Mapping[str, str | None] | None = None) -> dict[str, Any]:
    """Make the dataset that ``params`` describes; returns the content of dataset.json.

    Everything is built in a folder beside its final place and moved there at the end: a crash leaves no half dataset,
    and the next start goes on from the shards that were finished.

    Args:
        params: of the run.
        profile: of this machine.
        code: sha256 by path of the code that makes it: what other code had finished is not used.

    Raises:
        UserError: the manifest or source cannot be used, no dataset can be made of the videos, or the disk is too full.
    """
    url = params.active.data.store.url
    remote = None if url is None else RemoteShards.of(url, {}, profile)
    with _building(params, code or {}, remote) as (folder, finished):
        with _mapper(profile) as workers:
            videos, unreadable = _inspect(params, workers)
            plan, shards, undecodable = _cut(params, videos, unreadable, folder / "clips", finished, remote, workers)
        quarantined = [*unreadable, *undecodable, *plan.quarantined]
        _report(plan, quarantined)
        files = complete_store(
            folder / "clips",
            [file for shard in shards for file in shard.files],
            [record for shard in shards for record in shard.records],
        )
        remote = None if remote is None else dataclasses.replace(remote, files=files.shards)
        train = ClipStore.open(folder / "clips", "train", verify_reads=remote is not None, remote=remote)
        variant = VARIANTS[params.active.model.variant]
        teacher_class(params.active.teacher.name).fit(train, params.active.data.frames, variant, folder / "teacher")
        fidelity = sum((shard.fidelity for shard in shards), start=Fidelity())
        dataset = describe_dataset(params, plan, files, fidelity, len(quarantined), folder / "teacher")
        if near := dataset["psnr_db"]:
            print(f"near-lossless clips: {near['mean']:.1f} dB on average, {near['worst']:.1f} dB at worst")
        # Everything is on the disk before the first old file goes: moving takes no space.
        atomic_files.write_json(folder / "dataset.json", dataset)
        _replace(folder / "clips", paths.CLIPS)
        _replace(folder / "teacher", paths.TEACHER)
        # Last: it holds the hash of the others, so that a crash between the moves is found when they are opened.
        (folder / "dataset.json").replace(paths.DATASET)
    return dataset


def _mapper(profile: Profile) -> AbstractContextManager[Mapper]:
    """What the profile's ``workers`` names.

    Raises:
        UserError: it is Ray, which is not installed or does not answer.
    """
    if profile.workers == "ray":
        return RayWorkers(profile.ray_address)
    return Workers(available_cores() if profile.workers is None else profile.workers)


def _inspect(params: Params, workers: Mapper) -> tuple[list[Video], list[Quarantined]]:
    source = open_source(params.data)
    tasks = [(entry, source.locate(entry.path)) for entry in read_manifest(paths.MANIFEST)]
    inspect = functools.partial(inspect_video, limits=params.data.limits, conversions=params.data.conversions)
    found = list(
        workers.map(
            inspect, tasks, label="inspecting videos", unit="video", total=len(tasks), name=lambda task: task[0].path
        )
    )
    videos = [video for video in found if isinstance(video, Video)]
    return videos, [problem for problem in found if isinstance(problem, Quarantined)]


def _cut(
    params: Params,
    videos: list[Video],
    unreadable: Sequence[Quarantined],
    store: Path,
    finished: FinishedShards,
    remote: RemoteShards | None,
    workers: Mapper,
) -> tuple[DatasetPlan, list[WrittenShards], list[Quarantined]]:
    """Plan and write the shards, and plan again without the videos that do not decode, until all of them do."""
    written: dict[ShardPlan, WrittenShards] = {}
    undecodable: list[Quarantined] = []
    starts: Starts | None = None
    while True:
        plan = plan_dataset(videos, params.active.data, params.active.validation.samples)
        quarantined = [*unreadable, *undecodable, *plan.quarantined]
        write_quarantine(paths.QUARANTINE, sorted(quarantined, key=lambda video: video.path))
        _check_splits(plan, quarantined)
        # Once: what a later plan leaves out makes its own shard smaller, and leaves the others as they are.
        starts = starts or shard_starts(plan, params.active.data.store.shard_bytes)
        shards = shard_plans(plan, starts)
        # A shard whose plan changed is written over: only what the current plan wants stays valid.
        written = {shard: written[shard] for shard in shards if shard in written}
        written |= _taken(finished, [shard for shard in shards if shard not in written])
        wanted = [shard for shard in shards if shard not in written]
        if not wanted:
            _remove_others(store, {name for shard in shards for name in shard.names})
            return plan, [written[shard] for shard in shards], undecodable
        stored_as = params.active.data.store
        _check_disk(wanted if remote is None else wanted[:_MOST_NOT_UPLOADED], store, stored_as.codec)
        results = workers.map(
            functools.partial(
                cut_shards,
                store=store,
                stored_as=stored_as,
                limits=params.data.limits,
                conversions=params.data.conversions,
            ),
            wanted,
            label="cutting clips",
            unit="frame",
            total=sum(shard.frames for shard in wanted),
            name=str,
        )
        for shard, result in zip(wanted, results, strict=True):
            if isinstance(result, WrittenShards):
                written[shard] = result
                if remote is not None:
                    _upload(result, store, remote)
                finished.note(shard, result)
                failpoint(Failpoint.SHARD)
            else:
                videos = _without(videos, result, undecodable)


def _taken(finished: FinishedShards, shards: Sequence[ShardPlan]) -> dict[ShardPlan, WrittenShards]:
    """What an interrupted start has finished of these."""
    found = ((shard, finished.take(shard)) for shard in shards)
    taken = {shard: written for shard, written in found if written is not None}
    if taken:
        print(f"{len(taken)} of {len(shards)} shards were finished before an interruption, and are used again")
    return taken


def _without(videos: Sequence[Video], unusable: UnusableVideos, undecodable: list[Quarantined]) -> list[Video]:
    """The videos to go on with: those that do not decode are filed away, of short ones the true length is known."""
    kept = []
    for video in videos:
        problem = unusable.by_path.get(video.entry.path)
        if isinstance(problem, CutFailed):
            undecodable.append(Quarantined(video.entry.path, problem.reason, problem.detail))
        elif problem is not None:
            kept.append(dataclasses.replace(video, info=dataclasses.replace(video.info, frames=problem.frames)))
        else:
            kept.append(video)
    return kept


def _check_splits(plan: DatasetPlan, quarantined: Sequence[Quarantined]) -> None:
    empty = [split for split in SPLITS if not plan.clips(split)]
    if not empty:
        return
    left_out = [f"  - {shown(video.path)}: {video.reason}: {shown(video.detail)}" for video in quarantined]
    listed = [f"{len(left_out)} videos are left out:", *left_out] if left_out else []
    if not plan.videos:
        advice = "No video can be used. Fix or replace the videos and write data/manifest again."
    else:
        advice = (
            f"The split {plan.rule} of {len(plan.videos)} videos leaves no clips for {', '.join(empty)}. Add videos to "
            "data/manifest, raise that part of data.split, or raise data.split.by_video_from above "
            f"{len(plan.videos)} to split every video by time."
        )
    raise NoDatasetError("\n".join([advice, *listed]))


def _check_disk(shards: Sequence[ShardPlan], store: Path, codec: ClipCodecName) -> None:
    needed = sum(shard.bytes for shard in shards) // _LEAST_RATIO[codec] + _DISK_MARGIN_BYTES
    free = shutil.disk_usage(store.parent).free
    print(f"disk: {needed / 2**20:,.0f} MiB needed, {free / 2**20:,.0f} MiB free (DVC's cache may keep a second copy)")
    if needed > free:
        raise UserError(
            f"the clips need {needed / 2**20:,.0f} MiB, {store.parent.resolve()} has {free / 2**20:,.0f} MiB left. "
            "Free some space, or lower clips_per_video or the canvas sizes, or change store.codec in params.yaml."
        )


def _upload(written: WrittenShards, store: Path, remote: RemoteShards) -> None:
    """Move finished shards to the object store: the disk never holds more than a few."""
    remote.upload((store / file.name, file) for file in written.files)
    for file in written.files:
        (store / file.name).unlink()


def _remove_others(store: Path, wanted: Collection[str]) -> None:
    """Delete the shards of earlier plans."""
    for shard in store.glob("*.tar"):
        if shard.name not in wanted:
            shard.unlink()


def _report(plan: DatasetPlan, quarantined: Sequence[Quarantined]) -> None:
    counts = ", ".join(f"{plan.clips(split)} {split}" for split in SPLITS)
    print(f"{len(plan.videos)} videos, split {plan.rule}: {counts} clips, {plan.bytes / 2**20:,.0f} MiB")
    if plan.returned:
        print(f"{plan.returned} videos more than validation and test need (validation.samples) are trained on, whole")
    if plan.unused:
        print(f"{plan.unused} videos are not trained on: others make the {plan.clips('train')} clips of max_clips")
    for video in quarantined[:_LISTED]:
        print(f"left out: {shown(video.path)}: {video.reason}: {shown(video.detail)}")
    if len(quarantined) > _LISTED:
        reasons = Counter(video.reason for video in quarantined).most_common()
        counted = ", ".join(f"{count} {reason}" for reason, count in reasons)
        print(f"left out: {len(quarantined)} videos in all ({counted}); {paths.QUARANTINE} lists them")


@contextmanager
def _building(
    params: Params, code: Mapping[str, str | None], remote: RemoteShards | None
) -> Iterator[tuple[Path, FinishedShards]]:
    """A folder on the same file system as the final places, with what was finished before an interruption.

    It is deleted in the end, unless an interruption leaves finished shards in it.
    """
    folder = paths.DATA / "prepare_data.partial"
    data = params.active.data
    made_by = {
        "code": dict(code),
        "av": metadata.version("av"),
        "store": data.store.model_dump(),
        "limits": params.data.limits.model_dump(),
        "conversions": dataclasses.asdict(params.data.conversions),
    }
    finished = FinishedShards(folder, made_by, remote)
    ended = False
    try:
        yield folder, finished
        ended = True
    finally:
        if ended or not len(finished):
            shutil.rmtree(folder)


def _replace(new: Path, place: Path) -> None:
    if place.exists():
        shutil.rmtree(place)
    new.rename(place)
