from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.clip_stores import write_clips, write_test_store
from support.project import REPOSITORY

from taehv.config.batch_shares import slots_of_rank
from taehv.data.clip_index import ClipColumns
from taehv.data.sampler import SlotDraw, SlotSampler, flip_drawn, load_slots


def columns(
    clips_of_each: Sequence[int], frames: int = 24, height: int = 144, width: int = 176, shards: Sequence[int] = ()
) -> ClipColumns:
    """So many clips of each source, of one size; ``shards``: the number of the shard of each source."""
    count = sum(clips_of_each)
    return ClipColumns(
        first_clips=np.cumsum([0, *clips_of_each]),
        frames=np.full(count, frames, np.int32),
        heights=np.full(count, height, np.int32),
        widths=np.full(count, width, np.int32),
        shards=np.repeat(np.array(shards or [0] * len(clips_of_each), np.int32), clips_of_each),
        smallest=(frames, height, width),
    )


CLIPS = columns([7, 2, 1])


def sampler(
    clips: ClipColumns = CLIPS,
    seed: int = 42,
    global_batch: int = 4,
    flip: bool = True,
    block_shards: int = 0,
    strides: tuple[int, int] = (1, 1),
) -> SlotSampler:
    return SlotSampler(
        clips,
        seed=seed,
        global_batch=global_batch,
        height=64,
        width=64,
        frames=12,
        horizontal_flip=flip,
        strides=strides,
        block_shards=block_shards,
    )


def sources_of(drawing: SlotSampler, clips: ClipColumns, numbers: range) -> list[int]:
    """The source that each slot shows, by its number since the start of the training."""
    batch = drawing.global_batch
    steps = range(numbers.start // batch, -(-numbers.stop // batch))
    first = numbers.start - steps.start * batch
    draws = [draw for step in steps for draw in drawing.draw_step(step, range(batch))][first : first + len(numbers)]
    return (np.searchsorted(clips.first_clips, [draw.clip_id for draw in draws], side="right") - 1).tolist()


def test_the_draws_are_pinned() -> None:
    # Recorded once: if these change, every published run's clips change with them.
    draws = [sampler().draw(step, slot) for step, slot in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (999, 3)]]
    assert draws == [
        SlotDraw(clip_id=2, first_frame=10, top=51, left=110, flip=True),
        SlotDraw(clip_id=9, first_frame=12, top=9, left=22, flip=True),
        SlotDraw(clip_id=7, first_frame=11, top=73, left=1, flip=True),
        SlotDraw(clip_id=1, first_frame=0, top=71, left=40, flip=False),
        SlotDraw(clip_id=8, first_frame=12, top=20, left=81, flip=False),
        SlotDraw(clip_id=8, first_frame=8, top=4, left=99, flip=False),
    ]


def test_the_first_draws_of_the_embedded_default_are_those_of_the_first_version() -> None:
    """Recorded with sorted lists of objects, before draws came from columns: 128, 64 and 4 clips of three videos."""
    recorded = json.loads((REPOSITORY / "tests/golden/embedded_draws.json").read_text())
    drawing = sampler(columns([128, 64, 4]))
    draws = [draw for step in range(len(recorded) // 4) for draw in drawing.draw_step(step, range(4))]
    assert [[d.clip_id, d.first_frame, d.top, d.left, int(d.flip)] for d in draws] == recorded


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6), st.integers(0, 127))
def test_a_draw_is_a_pure_function_of_seed_step_and_slot(seed: int, step: int, slot: int) -> None:
    used = sampler(seed=seed, global_batch=128)
    for other in range(3):
        used.draw(step + other, other)
    assert used.draw(step, slot) == sampler(seed=seed, global_batch=128).draw(step, slot)


@given(st.integers(1, 16), st.integers(1, 16), st.integers(0, 1000))
def test_any_number_of_processes_sees_the_same_clips_in_every_step(batch: int, world_size: int, step: int) -> None:
    world_size = min(world_size, batch)
    alone = [sampler(global_batch=batch).draw(step, slot) for slot in range(batch)]
    together = [
        sampler(global_batch=batch).draw(step, slot)
        for rank in range(world_size)
        for slot in slots_of_rank(batch, world_size, rank)
    ]
    assert together == alone


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_the_source_mix_is_exact_however_unequal_the_sources_are(seed: int, batch: int) -> None:
    order = sources_of(sampler(seed=seed, global_batch=batch), CLIPS, range(90))
    assert Counter(order) == {0: 30, 1: 30, 2: 30}
    assert all(sorted(order[n : n + 3]) == [0, 1, 2] for n in range(0, 90, 3))


def test_the_order_of_the_sources_changes_from_turn_to_turn() -> None:
    orders = {tuple(sampler(global_batch=3).draw(step, slot).clip_id > 6 for slot in range(3)) for step in range(40)}
    assert len(orders) == 3


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=200),
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(0, 3),
    st.integers(0, 10**4),
)
def test_every_video_is_visited_once_before_any_is_visited_twice(
    clips_of_each: list[int], seed: int, batch: int, block_shards: int, turn: int
) -> None:
    count = len(clips_of_each)
    clips = columns(clips_of_each, shards=[number // 3 for number in range(count)])
    drawing = sampler(clips, seed=seed, global_batch=batch, block_shards=block_shards)
    order = sources_of(drawing, clips, range(turn * count, (turn + 1) * count))
    assert sorted(order) == list(range(count))


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=40),
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.integers(0, 500),
)
def test_with_shuffle_blocks_successive_slots_read_from_few_shards(
    videos_of_each: list[int], seed: int, block_shards: int, first: int
) -> None:
    """Within a block of shards, all of its videos are visited before another block's."""
    shards = [number for number, videos in enumerate(videos_of_each) for _ in range(videos)]
    clips = columns([2] * len(shards), shards=shards)
    drawing = sampler(clips, seed=seed, block_shards=block_shards)
    numbers = range(first - first % len(shards), first - first % len(shards) + len(shards))
    blocks = [shards[source] // block_shards for source in sources_of(drawing, clips, numbers)]
    changes = sum(a != b for a, b in pairwise(blocks))
    assert changes == len(set(blocks)) - 1


def test_blocks_and_the_videos_in_them_come_in_another_order_every_turn() -> None:
    clips = columns([1] * 100, shards=[number // 10 for number in range(100)])
    drawing = sampler(clips, block_shards=2)
    turns = [sources_of(drawing, clips, range(100 * turn, 100 * turn + 100)) for turn in range(3)]
    assert len({tuple(dict.fromkeys(source // 20 for source in turn)) for turn in turns}) == 3
    assert len({tuple(source for source in turn if source < 20) for turn in turns}) == 3


@given(st.integers(1, 300), st.integers(0, 3), st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_slots_drawn_together_are_those_drawn_alone(count: int, block_shards: int, seed: int, step: int) -> None:
    clips = columns([2] * count, shards=[number // 4 for number in range(count)])
    drawing = sampler(clips, seed=seed, global_batch=32, block_shards=block_shards)
    slots = range(0, 32, 3)
    assert drawing.draw_step(step, slots) == [drawing.draw(step, slot) for slot in slots]


def test_with_many_videos_every_clip_comes_up_equally_often() -> None:
    clips = columns([4] * 100)
    drawing = sampler(clips, global_batch=100)
    counts = Counter(draw.clip_id for step in range(400) for draw in drawing.draw_step(step, range(100)))
    assert sorted(counts) == list(range(400))
    assert max(abs(count - 100) for count in counts.values()) < 5 * 100**0.5


def test_every_clip_offset_corner_and_mirroring_comes_up_equally_often() -> None:
    drawing = sampler(columns([3], frames=14, height=66, width=67))
    draws = [draw for step in range(1500) for draw in drawing.draw_step(step, range(4))]
    drawn: list[tuple[list[int], int]] = [
        ([draw.clip_id for draw in draws], 3),
        ([draw.first_frame for draw in draws], 3),
        ([draw.top for draw in draws], 3),
        ([draw.left for draw in draws], 4),
        ([draw.flip for draw in draws], 2),
    ]
    for values, possible in drawn:
        counts = Counter(values)
        assert sorted(counts) == list(range(possible))
        expected = len(draws) / possible
        assert max(abs(count - expected) for count in counts.values()) < 5 * expected**0.5


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6), st.integers(0, 3))
def test_a_range_of_strides_changes_nothing_but_stride_and_first_frame(seed: int, step: int, slot: int) -> None:
    plain, varied = (sampler(seed=seed, strides=strides).draw(step, slot) for strides in ((1, 1), (1, 2)))
    assert dataclasses.replace(varied, stride=1, first_frame=plain.first_frame) == plain
    if varied.stride == 1:
        assert varied == plain


def test_every_stride_comes_up_equally_often_with_every_place_that_it_leaves() -> None:
    drawing = sampler(columns([1], frames=36), strides=(2, 3))
    draws = [draw for step in range(2000) for draw in drawing.draw_step(step, range(4))]
    for stride, places in ((2, 36 - 22), (3, 36 - 33)):
        counts = Counter(draw.first_frame for draw in draws if draw.stride == stride)
        assert sorted(counts) == list(range(places))
        expected = len(draws) / 2 / places
        assert max(abs(count - expected) for count in counts.values()) < 5 * expected**0.5


def test_a_stored_clip_that_is_too_short_for_the_largest_stride_is_refused() -> None:
    sampler(columns([1], frames=23), strides=(1, 2))
    with pytest.raises(ValueError, match="smaller than 23x64x64"):
        sampler(columns([1], frames=22), strides=(1, 2))


def test_nothing_is_mirrored_unless_asked_for() -> None:
    assert not any(sampler(flip=False).draw(step, 0).flip for step in range(50))


def test_seeds_differ() -> None:
    assert [sampler(seed=1).draw(step, 0) for step in range(9)] != [sampler(seed=2).draw(step, 0) for step in range(9)]


def test_a_clip_smaller_than_the_crop_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller than 12x64x64"):
        sampler(columns([1], frames=11))


def test_a_slot_shows_exactly_the_drawn_frames_and_pixels(tmp_path: Path) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (1, 24, 3, 144, 176), dtype=np.uint8)
    store = write_clips(tmp_path, "train", {"a": [clip[0]]})
    draws = [SlotDraw(0, 3, 10, 20, flip=False), SlotDraw(0, 12, 80, 112, flip=True), SlotDraw(0, 1, 0, 0, False, 2)]
    slots = load_slots(store, draws, height=64, width=64, frames=12)
    assert slots.is_contiguous()
    assert slots.dtype == torch.uint8
    np.testing.assert_array_equal(slots[0], clip[0, 3:15, :, 10:74, 20:84])
    np.testing.assert_array_equal(slots[1], clip[0, 12:24, :, 80:144, 112:176][..., ::-1])
    np.testing.assert_array_equal(slots[2], clip[0, 1:24:2, :, :64, :64])


def test_sampler_store_and_teacher_need_neither_video_nor_table_libraries() -> None:
    code = "import sys, taehv.data.sampler, taehv.teachers.pca; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"av", "pandas", "pyarrow", "mlflow", "dvc", "skvideo"} & set(loaded)


def test_crops_flipped_on_the_device_are_those_flipped_where_they_are_read(tmp_path: Path) -> None:
    store = write_test_store(tmp_path)
    draws = [SlotDraw(clip_id=clip, first_frame=1, top=3, left=5, flip=clip % 2 == 0) for clip in range(3)]
    later = flip_drawn(load_slots(store, draws, 16, 24, 8, flip=False), draws)
    assert torch.equal(later, load_slots(store, draws, 16, 24, 8))
    assert not torch.equal(later, load_slots(store, draws, 16, 24, 8, flip=False))
