from __future__ import annotations

import hashlib
from itertools import zip_longest
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

by_time = st.lists(st.sampled_from(SPLITS), min_size=0, max_size=12).map(
    lambda found: sorted(["train", *found], key=SPLITS.index)
)
by_video = st.tuples(st.sampled_from(SPLITS), st.integers(1, 12)).map(lambda found: [found[0]] * found[1])
datasets = st.sampled_from([by_time, by_video]).flatmap(
    lambda splits: st.dictionaries(st.text(min_size=1, max_size=5), splits, min_size=1, max_size=20)
)
"""By path: the split of each of the video's clips; as the two rules make them."""


def plan_of(dataset: dict[str, list[str]]) -> DatasetPlan:
    """As ``plan_dataset`` gives it: sorted by path."""
    plans = []
    for path in sorted(dataset):
        video = Video(
            ManifestEntry(path, 1, hashlib.sha256(path.encode()).hexdigest()), Path(path), VideoInfo(50, 8, 8)
        )
        planned = tuple(ClipPlan(split, Box(n, 0, 0), Extent(4, 8, 8)) for n, split in enumerate(dataset[path]))  # type: ignore[arg-type]
        plans.append(VideoPlan(video, 1, 8, 8, planned))
    return DatasetPlan("by time", tuple(plans), 0, (), 0)


@given(datasets, st.integers(1, 30))
def test_every_clip_is_in_one_shard_in_the_order_of_paths_and_shards_are_as_full_as_can_be(
    dataset: dict[str, list[str]], room: int
) -> None:
    plan = plan_of(dataset)
    shards = shard_plans(plan, shard_starts(plan, room * CLIP_BYTES))
    names = [name for shard in shards for name in shard.names]
    assert len(names) == len(set(names))
    for split in SPLITS:
        of_split = [shard for shard in shards if split in shard.splits]
        paths = [video.video.entry.path for shard in of_split for video in shard.videos]
        assert [path for path in paths if split in dataset[path]] == [p for p in sorted(dataset) if split in dataset[p]]
        assert [shard.number for shard in of_split] == sorted(shard.number for shard in of_split)
        for shard, after in zip_longest(of_split, of_split[1:]):
            assert len(shard.videos) == 1 or shard.bytes <= room * CLIP_BYTES
            if after is not None and after.number == shard.number + 1:
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


def test_held_out_videos_share_shards_however_far_apart_their_paths_are() -> None:
    dataset = {f"{number:04d}": ["val" if number % 100 == 7 else "train"] * 4 for number in range(1000)}
    plan = plan_of(dataset)
    shards = shard_plans(plan, shard_starts(plan, 40 * CLIP_BYTES))
    assert sum("val" in shard.splits for shard in shards) == 1
    assert len(shards) == 100
