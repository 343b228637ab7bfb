from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.video_files import small_params

from taehv.config.params import ScaleData, Split
from taehv.data.clip_plan import DatasetPlan, VideoPlan, _parts_by_video, plan_dataset, training_clips_each
from taehv.data.decode import VideoInfo
from taehv.data.inspect_video import Video
from taehv.data.manifest import ManifestEntry
from taehv.data.splits import SPLITS, split_by_time, split_of_video

DATA = small_params().active.data
FEW = DATA.split.model_copy(update={"by_video_from": 1000})
MANY = DATA.split.model_copy(update={"by_video_from": 1})


def video(name: str, frames: int = 60, height: int = 48, width: int = 64) -> Video:
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    return Video(ManifestEntry(f"{name}.mp4", 1, sha256), Path(f"{name}.mp4"), VideoInfo(frames, height, width))


def used_frames(plan: VideoPlan, split: str) -> set[int]:
    return {frame for clip in plan.clips if clip.split == split for frame in range(clip.box.start, clip.stop)}


videos = st.lists(
    st.builds(
        video,
        st.text("abcdefgh", min_size=1, max_size=6),
        frames=st.integers(1, 150),
        height=st.integers(20, 90),
        width=st.integers(20, 90),
    ),
    max_size=8,
    unique_by=lambda video: video.entry.path,
)
layouts = st.builds(
    lambda stride, resize, frames, clips, split: DATA.model_copy(
        update={
            "frame_stride": stride,
            "resize": resize,
            "canvas_frames": frames,
            "clips_per_video": clips,
            "split": split,
        }
    ),
    st.integers(1, 3),
    st.sampled_from(["native", "cover"]),
    st.integers(4, 12),
    st.integers(1, 30),
    st.sampled_from([FEW, MANY]),
)


@given(videos, layouts, st.integers(1, 12))
def test_no_frame_of_a_validation_or_test_clip_is_ever_in_a_training_clip(
    found: list[Video], data: ScaleData, samples: int
) -> None:
    plan = plan_dataset(found, data, samples)
    for video_plan in plan.videos:
        train, val, test = (used_frames(video_plan, split) for split in SPLITS)
        assert not train & val
        assert not train & test
        assert not val & test
        if plan.rule == "by video":
            assert sum(map(bool, (train, val, test))) == 1
        elif val:
            assert max(train) + data.split.guard_frames < min(val)
            assert max(val) + data.split.guard_frames < min(test)


@given(videos, layouts, st.integers(1, 12))
def test_every_clip_lies_inside_its_video_and_every_video_is_used_or_explained(
    found: list[Video], data: ScaleData, samples: int
) -> None:
    plan = plan_dataset(found, data, samples)
    for video_plan in plan.videos:
        frames = -(-video_plan.video.info.frames // data.stored_stride)
        assert video_plan.scaled_height <= video_plan.video.info.height
        for clip in video_plan.clips:
            assert 0 <= clip.box.start < clip.stop <= frames
            assert clip.box.top + clip.extent.height <= video_plan.scaled_height
            assert clip.box.left + clip.extent.width <= video_plan.scaled_width
    named = [p.video.entry.path for p in plan.videos] + [q.path for q in plan.quarantined]
    assert sorted(named) == sorted(video.entry.path for video in found)


@given(videos, layouts, st.integers(1, 12))
def test_every_source_has_the_same_number_of_held_out_clips_and_never_more_in_all_than_asked(
    found: list[Video], data: ScaleData, samples: int
) -> None:
    plan = plan_dataset(found, data, samples)
    for split in ("val", "test"):
        counts = [sum(clip.split == split for clip in video_plan.clips) for video_plan in plan.videos]
        assert len({count for count in counts if count}) <= 1
        assert sum(counts) <= samples


@given(st.integers(0, 2000), st.integers(0, 10))
def test_the_parts_of_a_video_are_apart_by_the_guard_frames_and_lose_no_other_frame(frames: int, guard: int) -> None:
    parts = split_by_time(frames, FEW.model_copy(update={"guard_frames": guard}))
    assert sum(map(len, parts.values())) == max(frames - 2 * guard, 0)
    assert parts["val"].start - parts["train"].stop == guard
    assert parts["test"].start - parts["val"].stop == guard


@given(st.lists(st.text(min_size=1, max_size=4), min_size=2, max_size=30, unique=True))
def test_adding_a_video_never_moves_another_one(names: list[str]) -> None:
    def split_by_name(plan: DatasetPlan) -> dict[str, str]:
        return {p.video.entry.path: p.clips[0].split for p in plan.videos}

    data = DATA.model_copy(update={"split": MANY})
    before = split_by_name(plan_dataset([video(name) for name in names[:-1]], data, samples=100))
    after = split_by_name(plan_dataset([video(name) for name in names], data, samples=100))
    assert before.items() <= after.items()


def test_whole_videos_are_shared_out_by_the_wanted_fractions() -> None:
    split = Split(train=0.8, val=0.15, test=0.05, guard_frames=0, by_video_from=1)
    found = [split_of_video(video(f"video {number}").entry.sha256, split) for number in range(4000)]
    assert found.count("train") / 4000 == pytest.approx(0.8, abs=0.03)
    assert found.count("val") / 4000 == pytest.approx(0.15, abs=0.03)
    assert found.count("test") / 4000 == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize(("split", "rule"), [(MANY, "by video"), (FEW, "by time")])
def test_every_video_that_validation_and_test_do_not_need_is_trained_on_whole(split: Split, rule: str) -> None:
    found = [video(f"video {number}") for number in range(60)]
    plan = plan_dataset(found, DATA.model_copy(update={"split": split, "clips_per_video": 1000}), samples=3)
    assert plan.rule == rule
    assert plan.clips("val") == plan.clips("test") == 3
    assert len(plan.videos) == 60 and not plan.quarantined
    held_out = [p for p in plan.videos if used_frames(p, "val") or used_frames(p, "test")]
    whole = [p for p in plan.videos if used_frames(p, "train") == set(range(60))]
    assert len(held_out) == (6 if rule == "by video" else 3)
    assert len(held_out) + len(whole) == 60
    meant = [v for v in found if split_of_video(v.entry.sha256, split) != "train"] if rule == "by video" else found
    assert plan.returned == len(meant) - len(held_out) > 0


@given(st.lists(st.text(min_size=1, max_size=4), min_size=2, max_size=40, unique=True), st.integers(1, 3))
def test_adding_videos_never_holds_out_what_was_trained_on(names: list[str], samples: int) -> None:
    def held_out(some: list[str]) -> set[str]:
        plan = plan_dataset([video(name) for name in some], DATA.model_copy(update={"split": MANY}), samples)
        return {p.video.entry.path for p in plan.videos if p.clips[0].split != "train"}

    before = names[: len(names) // 2]
    assert not (held_out(names) - held_out(before)) & {f"{name}.mp4" for name in before}


def test_of_10000_videos_only_what_validation_and_test_need_is_held_out() -> None:
    split = Split(train=0.9, val=0.05, test=0.05, guard_frames=0, by_video_from=100)
    found = [video(f"video {number}") for number in range(10_000)]
    parts = _parts_by_video(found, DATA.model_copy(update={"split": split}), samples=20)
    assert len(parts) == 10_000
    assert sum("train" not in part for _, part in parts) == 40


def test_videos_that_do_not_fit_are_left_out_with_numbers() -> None:
    found = [
        video("good"),
        video("three frames", frames=3),
        video("thumbnail", height=24, width=300),
        video("short", frames=20),
        dataclasses.replace(video("good"), entry=dataclasses.replace(video("good").entry, path="copy.mp4")),
    ]
    plan = plan_dataset(found, DATA.model_copy(update={"split": FEW}), samples=4)
    reasons = {problem.path: f"{problem.reason}: {problem.detail}" for problem in plan.quarantined}
    assert reasons == {
        "three frames.mp4": "too short: the video has 3 frames, 8 are needed",
        "thumbnail.mp4": "too small: 300x24 pixels, the stored canvas is 48x32 (width x height)",
        "short.mp4": "too short: its val part has 3 frames, 4 are needed",
        "copy.mp4": "duplicate: the same content as good.mp4",
    }
    assert [p.video.entry.path for p in plan.videos] == ["good.mp4"]


def test_a_stride_counts_only_the_frames_that_are_used() -> None:
    plan = plan_dataset(
        [video("half", frames=14)], DATA.model_copy(update={"frame_stride": 2, "split": FEW}), samples=1
    )
    assert plan.quarantined[0].detail == "the video has 7 frames (one in 2 is used), 8 are needed"


@pytest.mark.parametrize(
    ("videos", "max_clips", "each"), [(0, 5, 5), (1, 100, 5), (20, 100, 5), (21, 100, 4), (100, 100, 1), (101, 100, 1)]
)
def test_all_training_clips_together_are_bounded_by_fewer_of_each_video(videos: int, max_clips: int, each: int) -> None:
    data = DATA.model_copy(update={"clips_per_video": 5, "max_clips": max_clips})
    assert training_clips_each(videos, data) == each
    assert videos > max_clips or videos * each <= max_clips


@pytest.mark.parametrize("split", [FEW, MANY], ids=["by time", "by video"])
@pytest.mark.parametrize("max_clips", [1, 7, 30, 31, 10_000])
def test_with_more_videos_than_training_clips_the_content_decides_which_are_used(split: Split, max_clips: int) -> None:
    data = DATA.model_copy(update={"max_clips": max_clips, "clips_per_video": 3, "split": split})
    found = [video(str(number)) for number in range(40)]
    plan = plan_dataset(found, data, 4)
    assert 0 < plan.clips("train") <= max_clips and plan.clips("val") == plan.clips("test") == 4
    trained = [one.video for one in plan.videos if used_frames(one, "train")]
    unbounded = plan_dataset(found, data.model_copy(update={"max_clips": 10_000}), 4)
    could = sorted((one.video for one in unbounded.videos if used_frames(one, "train")), key=lambda v: v.entry.sha256)
    assert sorted(trained, key=lambda v: v.entry.sha256) == could[:max_clips]
    assert plan.unused == len(could) - len(trained)
    other_order = plan_dataset(found[::-1], data, 4)
    assert other_order.videos == plan.videos
