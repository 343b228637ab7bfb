from __future__ import annotations

import hashlib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from taehv.data.clip_grid import Box, Extent
from taehv.data.clip_plan import ClipPlan, DatasetPlan, VideoPlan
from taehv.data.decode import VideoInfo
from taehv.data.inspect_video import Video
from taehv.data.manifest import ManifestEntry
from taehv.data.shard_plan import shard_plans, shard_starts
from taehv.data.splits import SPLITS

CLIP_BYTES = 3 * 4 * 8 * 8

clips = st.lists(st.sampled_from(SPLITS), min_size=1, max_size=12).map(lambda found: sorted(found, key=SPLITS.index))
datasets = st.dictionaries(st.text(min_size=1, max_size=5), clips, min_size=1, max_size=20)
"""By path: the split of each of the video's clips."""


def plan_of(dataset: dict[str, list[str]]) -> DatasetPlan:
    """As ``plan_dataset`` gives it: sorted by path."""
    plans = []
    for path in sorted(dataset):
        video = Video(
            ManifestEntry(path, 1, hashlib.sha256(path.encode()).hexdigest()), Path(path), VideoInfo(50, 8, 8)
        )
        planned = tuple(ClipPlan(split, Box(n, 0, 0), Extent(4, 8, 8)) for n, split in enumerate(dataset[path]))  # type: ignore[arg-type]
        plans.append(VideoPlan(video, 1, 8, 8, planned))
    return DatasetPlan("by time", tuple(plans), 0, ())


@given(datasets, st.integers(1, 30))
def test_every_video_is_in_one_shard_in_order_and_shards_are_as_full_as_can_be(
    dataset: dict[str, list[str]], room: int
) -> None:
    plan = plan_of(dataset)
    shards = shard_plans(plan, shard_starts(plan, room * CLIP_BYTES))
    assert [video for shard in shards for video in shard.videos] == list(plan.videos)
    assert [shard.number for shard in shards] == list(range(len(shards)))
    for shard, after in zip(shards, [*shards[1:], None], strict=True):
        assert len(shard.videos) == 1 or shard.bytes <= room * CLIP_BYTES
        if after is not None:
            first = sum(clip.bytes for clip in after.videos[0].clips)
            assert shard.bytes + first > room * CLIP_BYTES


@given(datasets, st.integers(1, 30), st.data())
def test_a_lost_video_changes_no_shard_but_its_own(
    dataset: dict[str, list[str]], room: int, data: st.DataObject
) -> None:
    plan = plan_of(dataset)
    starts = shard_starts(plan, room * CLIP_BYTES)
    lost = data.draw(st.sampled_from(sorted(dataset)))
    before = set(shard_plans(plan, starts))
    after = set(shard_plans(plan_of({path: dataset[path] for path in dataset if path != lost}), starts))
    (own,) = before - after
    assert lost in [video.video.entry.path for video in own.videos]
    assert {shard.number for shard in after - before} <= {own.number}


@given(datasets)
def test_a_shard_has_a_file_for_each_split_that_it_has_clips_of(dataset: dict[str, list[str]]) -> None:
    (shard,) = shard_plans(plan_of(dataset), shard_starts(plan_of(dataset), 10**9))
    found = {split for splits in dataset.values() for split in splits}
    assert shard.names == tuple(f"{split}-000000.tar" for split in SPLITS if split in found)
