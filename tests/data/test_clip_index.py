from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taehv.data import clip_index
from taehv.data.clip_index import ClipIndex, ClipRecord, write_index
from taehv.data.splits import SPLITS, SplitName

sizes = st.tuples(st.integers(1, 5), st.integers(1, 100), st.integers(1, 100))
videos = st.dictionaries(st.text(min_size=1, max_size=8), st.lists(sizes, min_size=1, max_size=6), max_size=8)
"""By path: the sizes of each video's clips in one split."""


def records_of(split: SplitName, by_source: dict[str, list[tuple[int, int, int]]]) -> list[ClipRecord]:
    found = [(source, *size) for source in sorted(by_source) for size in by_source[source]]
    return [
        ClipRecord(
            clip_id=number,
            source=source,
            video_sha256=f"sha256 of {source}",
            split=split,
            shard=f"{split}-000000.tar",
            offset=512 + 10**10 * number,
            length=10**9,
            codec="raw",
            first_frame=number,
            frame_stride=2,
            frames=frames,
            top=3,
            left=4,
            height=height,
            width=width,
            scaled_height=200,
            scaled_width=300,
            sha256=f"{number:064x}",
        )
        for number, (source, frames, height, width) in enumerate(found)
    ]


@given(st.tuples(videos, videos, videos), st.integers(1, 4))
def test_what_was_written_is_read_back_row_by_row_and_as_columns(
    by_split: tuple[dict[str, list[tuple[int, int, int]]], ...], chunk: int
) -> None:
    expected = {split: records_of(split, found) for split, found in zip(SPLITS, by_split, strict=True)}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_index, "_CHUNK", chunk)  # the search for the first clips goes piece by piece
        write_index(Path(folder, "index.arrow"), [record for split in SPLITS for record in expected[split]])
        index = ClipIndex.open(Path(folder, "index.arrow"))
        for split in SPLITS:
            records = expected[split]
            assert [index.record(row) for row in index.rows(split)] == records
            if records:
                columns = index.columns(split)
                assert columns.smallest == tuple(
                    min(getattr(r, n) for r in records) for n in ("frames", "height", "width")
                )
                for name, column in (
                    ("frames", columns.frames),
                    ("height", columns.heights),
                    ("width", columns.widths),
                ):
                    assert column.tolist() == [getattr(record, name) for record in records]
                sources = [record.source for record in records]
                firsts = [number for number, source in enumerate(sources) if source not in sources[:number]]
                assert columns.first_clips.tolist() == [*firsts, len(records)]


def test_equal_clips_make_equal_bytes(tmp_path: Path) -> None:
    records = records_of("train", {"b": [(1, 2, 3)], "a": [(4, 5, 6)] * 2})
    for name in ("one", "two"):
        write_index(tmp_path / name, records)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_columns_are_views_of_the_file(tmp_path: Path) -> None:
    write_index(tmp_path / "index.arrow", records_of("train", {"a": [(1, 2, 3), (4, 5, 6)]}))
    columns = ClipIndex.open(tmp_path / "index.arrow").columns("train")
    for column in (columns.frames, columns.heights, columns.widths, columns.shards):
        assert not column.flags.owndata and not column.flags.writeable


@pytest.mark.parametrize("content", [b"", b"ARROW1", b"ARROW1\0\0" + bytes(100), b"index " * 1000])
def test_what_is_no_index_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.arrow").write_bytes(content)
    with pytest.raises((OSError, clip_index.IndexFileError)):
        ClipIndex.open(tmp_path / "index.arrow")


def test_large_numbers_of_clips_are_searched_as_small_ones() -> None:
    sources = np.repeat(np.arange(50_000), np.random.default_rng(0).integers(1, 50, 50_000)).astype(np.int32)
    firsts = clip_index._first_of_each(sources)
    assert len(sources) > 1_000_000
    np.testing.assert_array_equal(firsts, [*np.unique(sources, return_index=True)[1], len(sources)])
