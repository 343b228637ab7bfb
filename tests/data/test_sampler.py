from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.clip_stores import write_test_store

from taehv.config.batch_shares import slots_of_rank
from taehv.data.clip_store import ClipRecord, ClipStore
from taehv.data.sampler import SlotDraw, SlotSampler, flip_drawn, load_slots


def record(clip_id: int, source: str, frames: int = 24, height: int = 144, width: int = 176) -> ClipRecord:
    box = {"top": 0, "left": 0, "height": height, "width": width, "scaled_height": height, "scaled_width": width}
    where = {"split": "train", "shard": f"train/{clip_id}.npy", "row": 0, "first_frame": 0, "frame_stride": 1}
    return ClipRecord(clip_id=clip_id, source=source, video_sha256="", frames=frames, sha256="", **where, **box)  # type: ignore[arg-type]


RECORDS = [record(i, source) for i, source in enumerate(["a"] * 7 + ["b"] * 2 + ["c"])]


def sampler(
    records: list[ClipRecord] = RECORDS, seed: int = 42, global_batch: int = 4, flip: bool = True
) -> SlotSampler:
    return SlotSampler(
        records, seed=seed, global_batch=global_batch, height=64, width=64, frames=12, horizontal_flip=flip
    )


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
    drawing = sampler(seed=seed, global_batch=batch)
    source_of = {record.clip_id: record.source for record in RECORDS}
    order = [source_of[drawing.draw(n // batch, n % batch).clip_id] for n in range(90)]
    assert Counter(order) == {"a": 30, "b": 30, "c": 30}
    assert all(sorted(order[n : n + 3]) == ["a", "b", "c"] for n in range(0, 90, 3))


def test_the_order_of_the_sources_changes_from_turn_to_turn() -> None:
    orders = {tuple(sampler(global_batch=3).draw(step, slot).clip_id > 6 for slot in range(3)) for step in range(40)}
    assert len(orders) == 3


def test_every_clip_offset_corner_and_mirroring_comes_up_equally_often() -> None:
    records = [record(i, "a", frames=14, height=66, width=67) for i in range(3)]
    draws = [sampler(records).draw(step, slot) for step in range(1500) for slot in range(4)]
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


def test_nothing_is_mirrored_unless_asked_for() -> None:
    assert not any(sampler(flip=False).draw(step, 0).flip for step in range(50))


def test_seeds_differ() -> None:
    assert [sampler(seed=1).draw(step, 0) for step in range(9)] != [sampler(seed=2).draw(step, 0) for step in range(9)]


def test_a_clip_smaller_than_the_crop_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller than 12x64x64"):
        sampler([record(0, "a", frames=11)])


def test_a_slot_shows_exactly_the_drawn_frames_and_pixels(tmp_path: Path) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (1, 24, 3, 144, 176), dtype=np.uint8)
    (tmp_path / "train").mkdir()
    np.save(tmp_path / "train/0.npy", clip)
    store = ClipStore(tmp_path, "train", [record(0, "a")], verify_reads=False)
    draws = [SlotDraw(0, 3, 10, 20, flip=False), SlotDraw(0, 12, 80, 112, flip=True)]
    slots = load_slots(store, draws, height=64, width=64, frames=12)
    assert slots.is_contiguous()
    assert slots.dtype == torch.uint8
    np.testing.assert_array_equal(slots[0], clip[0, 3:15, :, 10:74, 20:84])
    np.testing.assert_array_equal(slots[1], clip[0, 12:24, :, 80:144, 112:176][..., ::-1])


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
