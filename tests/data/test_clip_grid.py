from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from taehv.data.clip_grid import Extent, cover_size, held_out_boxes, spread, training_boxes
from taehv.runtime.thinning import thin

extents = st.builds(Extent, st.integers(1, 60), st.integers(8, 200), st.integers(8, 200))
pieces = st.builds(Extent, st.integers(1, 12), st.integers(1, 8), st.integers(1, 8))


def test_pieces_are_spread_from_border_to_border_and_a_single_one_is_centred() -> None:
    assert spread(3, 100, 20) == [0, 40, 80]
    assert spread(1, 100, 20) == [40]


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 3000))
def test_thinning_takes_exactly_as_many_as_asked_all_different_and_equally_from_every_group(
    groups: int, positions: int, count: int
) -> None:
    chosen = thin(groups, positions, count)
    assert len(chosen) == len(set(chosen)) == min(count, groups * positions)
    per_group = Counter(group for group, _ in chosen)
    counts = [per_group[group] for group in range(groups)]
    assert max(counts) - min(counts) <= 1
    assert all(0 <= position < positions for _, position in chosen)


def test_thinning_does_not_always_take_the_same_place() -> None:
    # 24 times x 40 places thinned to 8: every 120th of the list would be the same place each time.
    places = [place for _, place in thin(24, 40, 8)]
    assert len(set(places)) == 8
    assert max(places) - min(places) > 20


@given(st.integers(9, 60), st.integers(20, 90), st.integers(20, 90))
def test_unthinned_training_canvases_cover_every_pixel_of_every_frame(frames: int, height: int, width: int) -> None:
    canvas = Extent(9, 16, 20)
    seen = np.zeros((frames, height, width), dtype=bool)
    for box in training_boxes(Extent(frames, height, width), canvas, at_most=10**6, whole_frame=True):
        assert box.start + 9 <= frames
        assert box.top + 16 <= height
        assert box.left + 20 <= width
        seen[box.start : box.start + 9, box.top : box.top + 16, box.left : box.left + 20] = True
    assert seen.all()


def test_after_covering_one_centred_canvas_is_taken_per_time() -> None:
    boxes = training_boxes(Extent(24, 480, 853), Extent(12, 480, 720), at_most=8, whole_frame=False)
    assert [(box.start, box.top, box.left) for box in boxes] == [(0, 0, 66), (12, 0, 66)]


@given(extents, pieces, st.integers(1, 40))
def test_held_out_clips_are_as_many_as_asked_all_different_and_inside(part: Extent, clip: Extent, count: int) -> None:
    assume(clip.frames <= part.frames)
    boxes = held_out_boxes(part, clip, count)
    starts, tops, lefts = part.frames - clip.frames, part.height - clip.height, part.width - clip.width
    different = (starts + 1) * (tops + 1) * (lefts + 1)
    assert len(boxes) == len(set(boxes)) == min(count, different)
    assert all(0 <= box.start <= starts and 0 <= box.top <= tops and 0 <= box.left <= lefts for box in boxes)


def test_held_out_clips_reach_the_borders_in_a_grid_shaped_like_the_picture() -> None:
    boxes = held_out_boxes(Extent(19, 720, 1280), Extent(12, 64, 64), 8)
    assert sorted({box.top for box in boxes}) == [0, 656]
    assert sorted({box.left for box in boxes}) == [0, 405, 810, 1216]
    upright = held_out_boxes(Extent(19, 1280, 720), Extent(12, 64, 64), 8)
    assert [(box.left, box.top) for box in upright] != [(box.top, box.left) for box in upright]
    assert sorted({box.left for box in upright}) == [0, 656]


def test_a_long_held_out_part_is_sampled_over_time_first() -> None:
    boxes = held_out_boxes(Extent(1000, 64, 64), Extent(12, 64, 64), 5)
    assert [box.start for box in boxes] == [0, 247, 494, 741, 988]


def test_720x480_is_width_720_and_height_480_for_landscape_and_portrait() -> None:
    assert cover_size(height=1080, width=1920, canvas_height=480, canvas_width=720) == (480, 853)
    assert cover_size(height=1920, width=1080, canvas_height=480, canvas_width=720) == (1280, 720)
    assert cover_size(height=480, width=720, canvas_height=480, canvas_width=720) == (480, 720)


@given(st.integers(480, 5000), st.integers(720, 5000))
def test_covering_keeps_the_proportions_and_never_enlarges(height: int, width: int) -> None:
    scaled_height, scaled_width = cover_size(height, width, 480, 720)
    assert scaled_height == 480 or scaled_width == 720
    assert 480 <= scaled_height <= height
    assert 720 <= scaled_width <= width
    # Equal up to the rounding of one side to whole pixels.
    assert abs(scaled_height * width - scaled_width * height) <= max(height, width) / 2
