"""Lists of videos as people have them: four formats that mean the same, and everything that can be wrong with one."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from taehv.cli import main
from taehv.data.annotations import Annotation, read_annotations
from taehv.runtime.errors import UserError

ENTRIES: list[dict[str, Any]] = [
    {"path": "a.mp4", "frames": 81, "duration": 3.375, "caption": 'He says: "go", \u00e9\U0001f600\nthen leaves'},
    {"path": "sub/b?.mp4", "frames": None, "duration": None, "caption": None},
]
READ = [
    Annotation(
        "a.mp4", {"frames": "81", "duration": "3.375", "caption": 'He says: "go", \u00e9\U0001f600\nthen leaves'}
    ),
    Annotation("sub/b?.mp4", {"frames": "", "duration": "", "caption": ""}),
]


def write(path: Path, kind: str) -> Path:
    """ENTRIES in one of the formats, and in one of its ways to be written."""
    match kind:
        case "object.json":
            path.write_text(json.dumps({"version": 1, "list": ENTRIES, "license": ["x"]}))
        case "list.json":
            path.write_text(json.dumps(ENTRIES, ensure_ascii=False), encoding="utf-8-sig")
        case "lines.jsonl":
            path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, ENTRIES)).encode() + b"\r\n\n")
        case "rows.csv":
            with path.open("w", encoding="utf-8-sig", newline="") as file:
                rows = csv.DictWriter(file, ["frames", "path", "duration", "caption"])
                rows.writeheader()
                rows.writerows(ENTRIES)
        case "table.parquet":
            parquet.write_table(pyarrow.Table.from_pylist(ENTRIES), path)
        case "large texts.parquet":
            table = pyarrow.Table.from_pylist(ENTRIES)
            types = {"path": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), "caption": pyarrow.large_string()}
            fields = [(field.name, types.get(field.name, field.type)) for field in table.schema]
            parquet.write_table(table.cast(pyarrow.schema(fields)), path)
    return path


KINDS = ["object.json", "list.json", "lines.jsonl", "rows.csv", "table.parquet", "large texts.parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_says_the_same(kind: str, tmp_path: Path) -> None:
    assert list(read_annotations(write(tmp_path / kind, kind))) == READ


def test_what_is_no_text_is_kept_as_json(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(
        '{"path": "a.mp4", "tags": ["x", {"y": true}], "good": false, "text": "1e5"}\n'
    )
    (entry,) = read_annotations(tmp_path / "list.jsonl")
    assert entry.further == {"tags": '["x", {"y": true}]', "good": "false", "text": "1e5"}


WRONG: list[tuple[str, bytes, str]] = [
    ("a.json", b"", "must be JSON like.*after 0 entries: parse error: premature EOF"),
    ("a.json", b'{"list": [{"path": "a.mp4"}, {"pa', "after 1 entries: parse error: premature EOF"),
    ("a.json", b'[{"path": "a.mp4"}]]', "after 1 entries: parse error: trailing garbage"),
    ("a.json", b'[{"path": "a.mp4\0"}]', "lexical error: invalid character inside string"),
    ("a.json", b'[{"path": "a\xff.mp4"}]', "lexical error: invalid bytes in UTF8 string"),
    ("a.json", b'[{"path": "a.mp4", "x": NaN}]', "after 0 entries: lexical error: invalid char in json text"),
    ("a.json", b'["a.mp4"]', "entry 0 has no text called 'path'"),
    ("a.json", b'[{"path": 3}]', "entry 0 has no text called 'path'"),
    ("a.json", b'{"list": {"path": "a.mp4"}}', "has no list called 'list'"),
    ("a.json", b"3", "has no list called 'list'"),
    ("a.json", b'[{"path": "\\ud83d.mp4"}]', r"half characters \(lone surrogates\)"),
    ("a.json", b'[{"path": "\\\\\\ud83d\\u0041.mp4"}]', r"half characters \(lone surrogates\)"),
    ("a.json", b'[{"path": "\\ude00.mp4"}]', "cannot be read: 'utf-8' codec"),
    ("a.jsonl", b'{"path": "a.mp4"}\n{"path": "b.m', "line 2: Unterminated string"),
    ("a.jsonl", b'{"path": "a.mp4"}\n[1]\n', "line 2 has no text called 'path'"),
    ("a.jsonl", b'{"path": "a.mp4"}\n\n{"path": null}\n', "line 3 has no text called 'path'"),
    ("a.jsonl", b'{"path": "a\xff.mp4"}\n', "line 1: 'utf-8' codec can't decode"),
    ("a.jsonl", b"[" * 100_000, "line 1: .*recursion"),
    ("a.jsonl", b'{"path": "' + b"a" * 2**24 + b'"}\n', "line 1 is longer than 16 MiB"),
    ("a.csv", b"", "first line has a column called 'path'"),
    ("a.csv", b"path,path\na,b\n", "two columns have the same name"),
    ("a.csv", b"path,caption\na.mp4,x\nb.mp4\n", "row 2 must have 2 values, got 1"),
    ("a.csv", b"path,caption\na.mp4,x,y\n", "row 1 must have 2 values, got 3"),
    ("a.csv", b"path\n\xff\n", "cannot be read: 'utf-8' codec"),
    ("a.csv", b"path\n" + b"a" * 200_000, "cannot be read as CSV: line 2: field larger than field limit"),
    ("a.parquet", b"", "cannot be read as Parquet: Parquet file size is 0 bytes"),
    ("a.parquet", b"path\na.mp4\n" * 100, "cannot be read as Parquet: .*magic bytes"),
    ("a.txt", b"path\na.mp4\n", r"ends in one of \.json, \.jsonl, \.csv, \.parquet; rename or convert it"),
]


@pytest.mark.parametrize(("name", "content", "problem"), WRONG)
def test_a_list_that_is_wrong_is_one_error_that_says_where(
    name: str, content: bytes, problem: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=problem) as caught:
        list(read_annotations(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"file": ["a.mp4"]}, "must have one column called 'path', got file"),
        ({"path": [1, 2]}, "a path must be a text, got 1"),
        ({"path": ["a.mp4", None]}, "a path must be a text, got None"),
    ],
)
def test_a_table_that_is_wrong_is_one_error(columns: dict[str, list[Any]], problem: str, tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=problem):
        list(read_annotations(tmp_path / "a.parquet"))


def test_a_parquet_file_that_is_cut_off_or_changed_inside_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"path": [f"{number:09}.mp4" for number in range(10_000)]}), path)
    whole = path.read_bytes()
    for broken in (whole[:-100], whole[: len(whole) // 2], whole[:4] + bytes(1000) + whole[1004:]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="cannot be read"):
            list(read_annotations(path))


def test_names_with_question_marks_and_characters_of_two_halves_are_no_half_characters(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'[{"path": "what?\\ud83d\\ude00 \\\\ud83d.mp4"}]')
    assert [one.path for one in read_annotations(tmp_path / "a.json")] == ["what?\U0001f600 \\ud83d.mp4"]


def test_a_folder_in_the_list_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.mp4").mkdir()
    (tmp_path / "b.mp4").write_bytes(b"b")
    (tmp_path / "list.csv").write_text("path\na.mp4\nb.mp4\nc.mp4\n")
    assert main(["manifest", str(tmp_path / "list.csv"), "--output", str(tmp_path / "manifest")]) == 1
    said = capsys.readouterr().err
    assert "2 of 3 videos cannot be listed" in said and "a.mp4 is a folder" in said and "c.mp4: no such file" in said
    assert not (tmp_path / "manifest").exists()
