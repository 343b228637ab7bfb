"""A manifest of any size: one CSV file or Parquet parts, replaced as a whole, and refused where it is not whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from taehv.data import manifest_writer
from taehv.data.identity import Identity
from taehv.data.manifest import ManifestEntry, ManifestError, read_manifest
from taehv.data.manifest_writer import CSV_VIDEOS, write_manifest
from taehv.runtime.errors import UserError


def made(count: int, identity: Identity = "sha256") -> list[ManifestEntry]:
    return [
        ManifestEntry(f"{number}.mp4", number, hashlib.sha256(b"%d" % number).hexdigest(), identity)
        for number in range(count)
    ]


def write(folder: Path, entries: list[ManifestEntry], **more: Any) -> None:
    rows = ((entry, {"caption": f"=caption of {entry.path}"}) for entry in entries)
    write_manifest(folder, rows, **{"videos": len(entries), "identity": entries[0].identity, **more})


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet from 6 videos on, 4 in a part, 3 in a row group."""
    for name, size in (("CSV_VIDEOS", 5), ("PART_VIDEOS", 4), ("_ROW_GROUP", 3)):
        monkeypatch.setattr(manifest_writer, name, size)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("identity", ["sha256", "sampled"])
def test_up_to_ten_thousand_videos_are_csv_and_more_are_parquet(tmp_path: Path, identity: Identity) -> None:
    for count, files in ((CSV_VIDEOS, ["videos.csv"]), (CSV_VIDEOS + 1, ["part-00000.parquet"])):
        write(tmp_path / "manifest", made(count, identity), further=("caption",))
        assert names(tmp_path / "manifest") == files
        manifest = read_manifest(tmp_path / "manifest")
        assert (len(manifest), manifest.identity, manifest.further) == (count, identity, ("caption",))
        assert list(manifest) == made(count, identity)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("count", [6, 7, 8, 9, 12, 13])
def test_parts_are_read_in_order_and_hold_further_columns_as_they_are(tmp_path: Path, count: int) -> None:
    write(tmp_path, made(count), further=("caption",))
    assert names(tmp_path) == [f"part-{number:05}.parquet" for number in range(-(-count // 4))]
    assert list(read_manifest(tmp_path)) == list(read_manifest(tmp_path)) == made(count)
    table = parquet.read_table(tmp_path / "part-00001.parquet")  # as pandas, DuckDB and others read it
    assert table.to_pylist()[0]["caption"] == "=caption of 4.mp4"


@pytest.mark.usefixtures("small_parts")
def test_a_new_manifest_leaves_nothing_of_the_old_one_and_hidden_files_as_they_are(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").touch()
    for count in (13, 7, 2, 3, 13):
        write(tmp_path, made(count))
        assert list(read_manifest(tmp_path)) == made(count)
        assert names(tmp_path)[0] == ".gitignore" and not list(tmp_path.glob("*.partial"))


@pytest.mark.usefixtures("small_parts")
def test_writing_the_same_again_gives_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for _ in range(2):
        write(tmp_path, made(13), further=("caption",))
        written.append([file.read_bytes() for file in sorted(tmp_path.iterdir())])
    assert written[0] == written[1]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_part_that_is_missing_or_of_another_manifest_is_one_error(tmp_path: Path, lost: int) -> None:
    write(tmp_path / "other", made(11))
    write(tmp_path / "manifest", made(13))
    (tmp_path / f"manifest/part-{lost:05}.parquet").unlink()
    with pytest.raises(
        ManifestError, match=r"parts of this manifest are missing|must hold videos\.csv alone, or part-"
    ):
        read_manifest(tmp_path / "manifest")
    with pytest.raises(ManifestError, match="parts of this manifest are missing, or of another one"):
        (tmp_path / "other/part-00002.parquet").rename(tmp_path / f"manifest/part-{lost:05}.parquet")
        read_manifest(tmp_path / "manifest")


@pytest.mark.usefixtures("small_parts")
def test_a_process_that_dies_between_the_first_new_part_and_the_last_leaves_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, made(5))
    replace = Path.replace

    def dies(file: Path, target: Path) -> Path:
        if target == tmp_path / "part-00002.parquet":
            raise KeyboardInterrupt
        return replace(file, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", dies)
        write(tmp_path, made(13))
    with pytest.raises(ManifestError, match="parts of this manifest are missing"):
        read_manifest(tmp_path)
    write(tmp_path, made(13))
    assert list(read_manifest(tmp_path)) == made(13)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("count", [5, 13])
def test_what_goes_wrong_while_it_is_written_leaves_the_old_one(tmp_path: Path, count: int) -> None:
    write(tmp_path, made(4))

    def broken() -> Iterator[tuple[ManifestEntry, dict[str, str]]]:
        yield from ((entry, {}) for entry in made(count - 1))
        raise UserError("a video cannot be read")

    with pytest.raises(UserError, match="a video cannot be read"):
        write_manifest(tmp_path, broken(), videos=count)
    with pytest.raises(UserError, match=f"changed while it was read, from {count} to {count - 1}; run it again"):
        write(tmp_path, made(count - 1), videos=count)
    assert list(read_manifest(tmp_path)) == made(4)
    assert names(tmp_path) == ["videos.csv"]


def test_other_files_in_the_folder_are_neither_read_nor_deleted(tmp_path: Path) -> None:
    write(tmp_path, made(3))
    (tmp_path / "notes.txt").write_text("mine")
    for use in (lambda: read_manifest(tmp_path), lambda: write(tmp_path, made(2))):
        with pytest.raises(UserError, match=r"notes\.txt is no file of a manifest.*move it away"):
            use()
    (tmp_path / "notes.txt").rename(tmp_path / "part-00000.parquet")
    with pytest.raises(ManifestError, match=r"must hold videos\.csv alone, or .* got part-00000\.parquet, videos\.csv"):
        read_manifest(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "manifest").touch()
    with pytest.raises(UserError, match="is a regular file, and a manifest is a folder"):
        write(tmp_path / "manifest", made(3))
    with pytest.raises(ManifestError, match="cannot be read: Not a directory"):
        read_manifest(tmp_path / "manifest")


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"path": [None]}, "row 1: the path is empty"),
        ({"path": [3]}, "row 1: the path is empty"),
        ({"bytes": [-1]}, "row 1: bytes must be an integer"),
        ({"bytes": [1.5]}, "row 1: bytes must be an integer"),
        ({"sha256": ["A" * 64]}, "row 1: sha256 must be 64 lower-case"),
        ({"sha256": [None]}, "row 1: sha256 must be 64 lower-case"),
        ({"sampled": ["0" * 64], "sha256": None}, ""),
        ({"sha256": None}, "must start with the columns path,bytes,sha256 or path,bytes,sampled"),
    ],
)
def test_wrong_values_in_a_part_are_told_with_their_row(tmp_path: Path, columns: dict[str, Any], problem: str) -> None:
    made_up = {"path": ["a.mp4"], "bytes": [1], "sha256": ["0" * 64], **columns}
    table = pyarrow.table({name: values for name, values in made_up.items() if values is not None})
    parquet.write_table(table.replace_schema_metadata({"taehv.videos": "1"}), tmp_path / "part-00000.parquet")
    if problem:
        with pytest.raises(ManifestError, match=problem):
            read_manifest(tmp_path)
    else:
        assert read_manifest(tmp_path).identity == "sampled"


@pytest.mark.usefixtures("small_parts")
def test_names_listed_twice_and_damaged_parts_are_told(tmp_path: Path) -> None:
    write(tmp_path, [*made(9), made(2)[1]])
    with pytest.raises(ManifestError, match=r"1 bad line.*\n  - part-00002\.parquet row 2: 1\.mp4 is listed twice"):
        read_manifest(tmp_path)
    write(tmp_path, made(9))
    part = tmp_path / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-50])
    with pytest.raises(ManifestError, match=r"part-00001\.parquet cannot be read as Parquet"):
        read_manifest(tmp_path)


def test_of_many_bad_lines_the_first_are_named_and_all_are_counted(tmp_path: Path) -> None:
    (tmp_path / "videos.csv").write_text("path,bytes,sha256\n" + "x\n" * 1000)
    with pytest.raises(ManifestError, match=r"has 1000 bad lines; write it with") as caught:
        read_manifest(tmp_path)
    assert "line 21: must have 3 values" in str(caught.value) and str(caught.value).endswith("and 980 more")
