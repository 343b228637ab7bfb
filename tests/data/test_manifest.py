from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.project import REPOSITORY

from taehv.cli import main
from taehv.config.params import DEFAULT_LIMITS, DataSource
from taehv.data.annotations import read_annotations
from taehv.data.folder_search import VIDEO_SUFFIXES
from taehv.data.list_videos import describe
from taehv.data.manifest import FORMULA_STARTS, ManifestEntry, ManifestError, read_manifest
from taehv.data.manifest_writer import write_manifest
from taehv.data.sources import NAMES, FolderFiles, located, open_source
from taehv.runtime.errors import UserError
from taehv.runtime.hashing import sha256_of_file
from taehv.runtime.yaml_files import read_yaml


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos, one of them in a subfolder, and a file that is none."""
    (tmp_path / "trip/day 1").mkdir(parents=True)
    (tmp_path / "trip/b.mp4").write_bytes(b"bb")
    (tmp_path / "trip/day 1/a.MOV").write_bytes(b"a")
    (tmp_path / "trip/notes.txt").write_text("none")
    return tmp_path / "trip"


def source_of(
    kind: Literal["videos", "annotations"], path: str, allow_outside: bool, root: str | None = None
) -> DataSource:
    return DataSource(
        source=kind,
        path=path,
        root=root,
        allow_outside=allow_outside,
        limits=DEFAULT_LIMITS,
        hdr="exclude",
        interlaced="exclude",
    )


def in_folder(place: Path, text: str) -> Path:
    """A manifest of a few videos."""
    (place / "manifest").mkdir()
    (place / "manifest/videos.csv").write_text(text)
    return place / "manifest"


def listed(manifest: Path) -> list[str]:
    return [entry.path for entry in read_manifest(manifest)]


def test_the_shipped_manifest_is_what_the_command_writes_for_the_samples(tmp_path: Path) -> None:
    output = tmp_path / "manifest"
    assert main(["manifest", "--samples", "--output", str(output)]) == 0
    assert (output / "videos.csv").read_bytes() == (REPOSITORY / "data/manifest/videos.csv").read_bytes()
    assert listed(output) == list(NAMES)


def test_a_folder_is_searched_recursively_for_videos(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "manifest"
    assert main(["manifest", str(folder), "--output", str(output)]) == 0
    assert list(read_manifest(output)) == [
        ManifestEntry("b.mp4", 2, sha256_of_file(folder / "b.mp4")),
        ManifestEntry("day 1/a.MOV", 1, sha256_of_file(folder / "day 1/a.MOV")),
    ]
    assert f"data: {{source: videos, path: {folder.as_posix()}}}" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["list.json", "list.csv"])
def test_an_annotation_file_lists_videos_relative_to_itself_in_its_order(
    folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["day 1/a.MOV", "b.mp4"]
    if kind == "list.json":
        (folder / kind).write_text(json.dumps({"list": [{"path": name, "caption": "x"} for name in names]}))
    else:
        (folder / kind).write_text("caption,path\n" + "".join(f'"a, b",{name}\n' for name in names))
    monkeypatch.chdir(tmp_path)
    assert main(["manifest", f"trip/{kind}", "--output", "manifest"]) == 0
    assert listed(Path("manifest")) == names


@pytest.mark.parametrize("escape", ["../b.mp4", "/etc/passwd", "day 1/../../b.mp4", "..\\b.mp4", "", "link/b.mp4"])
def test_annotated_paths_that_leave_the_folder_are_refused(
    folder: Path, escape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "b.mp4").write_bytes(b"secret")
    (folder / "link").symlink_to(outside)
    (folder / "list.json").write_text(json.dumps({"list": [{"path": escape}]}))
    output = folder / "manifest"
    assert main(["manifest", str(folder / "list.json"), "--output", str(output)]) == 1
    assert "error: " in (message := capsys.readouterr().err)
    assert "must be a path below" in message or "leads out of" in message or "is not the path of a file" in message
    assert not output.exists()


@pytest.mark.parametrize("way_out", ["../outside/b.mp4", "{outside}/b.mp4", "link/b.mp4", "b-link.mp4"])
def test_paths_that_leave_the_folder_can_be_allowed_for_the_list_and_for_the_stage(
    folder: Path, way_out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "b.mp4").write_bytes(b"bbb")
    (folder / "link").symlink_to(outside)
    (folder / "b-link.mp4").symlink_to(outside / "b.mp4")
    name = way_out.format(outside=outside)
    (folder / "list.json").write_text(json.dumps({"list": [{"path": name}]}))
    output = folder / "manifest"
    assert main(["manifest", str(folder / "list.json"), "--allow-outside", "--output", str(output)]) == 0
    assert "path: " in (printed := capsys.readouterr().out) and "allow_outside: true" in printed
    assert listed(output) == [name]
    source = source_of("annotations", str(folder / "list.json"), allow_outside=True)
    assert open_source(source).locate(name).read_bytes() == b"bbb"
    with pytest.raises(UserError, match=r"data\.allow_outside: true"):
        open_source(source.model_copy(update={"allow_outside": False})).locate(name)


def test_the_error_for_links_that_dvc_made_says_what_dvc_can_make_instead(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = folder.parent / ".dvc/cache/files/md5/ab"
    cache.mkdir(parents=True)
    (folder / "b.mp4").rename(cache / "cdef")
    (folder / "b.mp4").symlink_to(cache / "cdef")
    assert main(["manifest", str(folder), "--output", str(folder.parent / "manifest")]) == 1
    said = capsys.readouterr().err
    assert re.search(r"cache\.type symlink.*dvc config cache\.type .* dvc checkout --relink", said)
    assert main(["manifest", str(folder), "--allow-outside", "--output", str(folder.parent / "manifest")]) == 0
    assert listed(folder.parent / "manifest") == ["b.mp4", "day 1/a.MOV"]


def test_links_in_a_circle_are_one_clear_error(folder: Path) -> None:
    (folder / "one.mp4").symlink_to(folder / "two.mp4")
    (folder / "two.mp4").symlink_to(folder / "one.mp4")
    with pytest.raises(UserError, match=r"one\.mp4.* (cannot be followed|no such file)"):
        describe(FolderFiles(folder), ["one.mp4"])


@given(st.lists(st.sampled_from(["..", ".", "a", "b.mp4", "", "/"]), max_size=6).map("/".join))
def test_no_accepted_path_lies_outside(name: str) -> None:
    root = Path("/nowhere/videos")
    try:
        file = located(root, name, allow_outside=False)
    except UserError:
        return
    assert file.resolve().is_relative_to(root)
    assert file != root


SOUND = [
    *(f"a{suffix}" for suffix in sorted(VIDEO_SUFFIXES)), "r\r.mp4", "n\n.mp4", "=cmd.mp4", "x:y.mp4", "sub/s.MP4"
]  # fmt: skip
TRASH = [
    ".hidden.mp4", "._resource.mp4", ".Trash/a.mp4", ".Trash-1000/files/a.mp4", "@eaDir/a.mp4", "$RECYCLE.BIN/a.mp4",
    "lost+found/a.mp4", ".ipynb_checkpoints/a.mp4", "__MACOSX/a.mp4", "sub/.thumbnails/a.mp4"
]  # fmt: skip


@pytest.fixture
def untidy(tmp_path: Path) -> Path:
    """A folder as people have them: every container, strange names, trash, links, pipes and other files."""
    folder = tmp_path / "my videos #1"
    for name in [*SOUND, *TRASH, "notes.txt", "more.txt", "picture.png", "README", "back\\slash.mp4"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    Path(os.fsdecode(os.fsencode(folder) + b"/latin\xff.mp4")).write_bytes(b"x")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "lost.mp4").symlink_to("/nowhere")
    (folder / "zero.mp4").symlink_to("/dev/zero")
    (folder / "link").symlink_to("sub")
    return folder


def test_what_a_folder_holds_is_listed_or_left_aside_with_a_count_and_a_reason(
    untidy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(untidy.parent)
    assert main(["manifest", untidy.name, "--output", "manifest"]) == 0
    assert listed(Path("manifest")) == sorted(SOUND)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"manifest: {len(SOUND)} videos")
    assert {line.split(" (")[0] for line in printed if line.startswith("left aside")} == {
        f"left aside: {len(TRASH)} hidden, or in a hidden or trash folder",
        "left aside: 4 not a supported container",
        "left aside: 3 no regular file, or a link to nothing",
        "left aside: 1 a link to a folder, which is not followed",
        "left aside: 1 a name that is not UTF-8",
        "left aside: 1 a backslash in its name",
    }
    assert "(2 .txt, 1 .png, 1 without suffix)" in "\n".join(printed)


@pytest.mark.parametrize(
    "name", ["my videos #1", "a: b", "yes", "{x}", "- d", "null", "long " * 40, "\u00e9\n", "1e5", "0o7", "-1", ".5"]
)
def test_the_suggested_line_is_yaml_that_names_the_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    (Path(name) / "a.mp4").write_bytes(b"a")
    assert main(["manifest", name, "--output", "manifest"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("params.yaml must say")]
    Path("suggested.yaml").write_text(line.removeprefix("params.yaml must say"), encoding="utf-8")
    assert (read := read_yaml(Path("suggested.yaml"))) == {"data": {"source": "videos", "path": mock.ANY}}
    assert isinstance(read, dict) and Path(read["data"]["path"]) == Path(name)


def test_a_folder_whose_name_is_not_utf_8_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/latin\xff"))
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"a")
    assert main(["manifest", str(folder), "--output", str(tmp_path / "manifest")]) == 1
    assert "is not a UTF-8 name" in capsys.readouterr().err


def test_a_folder_with_nothing_but_other_files_says_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.rm").write_bytes(b"a")
    assert main(["manifest", str(tmp_path)]) == 1
    assert "left aside: 1 not a supported container (1 .rm)" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["list.json", "list.csv"])
def test_lone_surrogates_and_line_ends_in_annotations_are_read_or_one_clear_error(
    folder: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b\r.mp4").write_bytes(b"r")
    (folder / "good.csv").write_bytes(b'path\r\n"b\r.mp4"\r\n')
    assert [one.path for one in read_annotations(folder / "good.csv")] == ["b\r.mp4"]
    (folder / "list.json").write_text('{"list": [{"path": "\\ud800.mp4"}, {"path": "\\udcff.mp4"}]}')
    (folder / "list.csv").write_bytes(b"path\n\xed\xa0\x80.mp4\n")
    for outside in ([], ["--allow-outside"]):
        assert main(["manifest", str(folder / kind), "--output", str(folder / "manifest"), *outside]) == 1
        message = capsys.readouterr().err
        assert "lone surrogate" in message or "cannot be read" in message


def test_a_relative_path_is_found_here_or_in_the_main_repository(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the copy that DVC makes for a queued experiment, which has what git knows."""
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    source = source_of("videos", "trip", allow_outside=False)
    with pytest.raises(UserError, match="is not a folder"):
        open_source(source)
    monkeypatch.setenv("TAEHV_ROOT", str(tmp_path))
    assert open_source(source).locate("b.mp4").read_bytes() == b"bb"
    (folder / "list.json").write_text("{}")
    listed_there = source.model_copy(update={"source": "annotations", "path": "trip/list.json"})
    assert open_source(listed_there).locate("b.mp4").read_bytes() == b"bb"
    (tmp_path / "copy/trip").mkdir()
    (tmp_path / "copy/trip/b.mp4").write_bytes(b"here")
    assert open_source(source).locate("b.mp4").read_bytes() == b"here"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("list.json", "{", "must be JSON like"),
        ("list.json", '{"videos": []}', "it has no list called 'list'"),
        ("list.json", '{"list": [{"file": "a.mp4"}]}', "entry 0 has no text called 'path'"),
        ("list.json", '{"list": []}', "lists no videos"),
        ("list.csv", "file\na.mp4\n", "a column called 'path'"),
        ("list.csv", "path,caption\n,x\n", "the path in row 1 is empty"),
        ("list.csv", "path\nabsent.mp4\n", "absent.mp4: no such file"),
    ],
)
def test_a_wrong_annotation_file_is_one_clear_error(
    folder: Path, name: str, content: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).write_text(content)
    assert main(["manifest", str(folder / name), "--output", str(folder / "manifest")]) == 1
    assert problem in capsys.readouterr().err


def test_a_folder_without_videos_or_no_folder_at_all_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["manifest", str(tmp_path)]) == 1
    assert main(["manifest", str(tmp_path / "absent")]) == 1
    assert "no video below" in capsys.readouterr().err


def test_all_wrong_lines_of_a_manifest_are_listed_at_once(tmp_path: Path) -> None:
    good = f"a.mp4,1,{'0' * 64}"
    lines = ["path,bytes,sha256", good, good, "b.mp4,many,0", f"c.mp4,2,{'G' * 64}", "d.mp4,3", f",4,{'1' * 64}"]
    path = in_folder(tmp_path, "\n".join(lines) + "\n")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert "5 bad lines" in message
    for line, problem in enumerate(
        ["a.mp4 is listed twice", "bytes must be", "sha256 must be", "must have 3 values, got 2", "the path is empty"],
        3,
    ):
        assert f"line {line}: {problem}" in message


@pytest.mark.parametrize(("text", "problem"), [(None, "cannot be read"), ("a,b\n", "must start"), ("", "must start")])
def test_a_missing_or_foreign_manifest_says_how_to_write_one(tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "manifest" if text is None else in_folder(tmp_path, text)
    with pytest.raises(ManifestError, match=rf"{problem}.*taehv manifest"):
        read_manifest(path)


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1) | st.sampled_from(
    ["\r", "a\r.mp4", "a\r\nb.mp4", "=1+1.mp4", "+x", "-x", "@x", "\tx", "\uff1dx", '",\r"', "\u2028", "\x1b[31m"]
)


@given(
    st.lists(st.builds(ManifestEntry, names, st.integers(0), st.just("0" * 64)), min_size=1, unique_by=lambda e: e.path)
)
def test_any_file_name_survives_writing_and_reading(
    tmp_path_factory: pytest.TempPathFactory, entries: list[ManifestEntry]
) -> None:
    path = tmp_path_factory.mktemp("manifest") / "manifest"
    write_manifest(path, ((entry, {}) for entry in entries), videos=len(entries))
    assert list(read_manifest(path)) == entries
    with (path / "videos.csv").open(encoding="utf-8", newline="") as file:
        assert not any(cell.startswith(FORMULA_STARTS) for row in csv.reader(file) for cell in row)


def test_the_command_also_runs_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "taehv.cli", "manifest", "--samples", "--output", str(tmp_path / "manifest")]
    subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True)
    with (tmp_path / "manifest/videos.csv").open(encoding="utf-8") as file:
        assert [row["path"] for row in csv.DictReader(file)] == list(NAMES)


def test_repeated_paths_in_an_annotation_file_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "list.csv").write_text("path\nb.mp4\nb.mp4\n")
    assert main(["manifest", str(folder / "list.csv"), "--output", str(folder / "manifest")]) == 1
    assert "list.csv: entry 2: b.mp4 is listed twice" in capsys.readouterr().err
