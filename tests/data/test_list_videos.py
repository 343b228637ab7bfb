"""`taehv manifest`: what identifies a video, where its list's paths begin, and what a killed run costs."""

from __future__ import annotations

import csv
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.full_disk import needs_small_disks, run_on_small_disk
from support.project import REPOSITORY

from taehv.cli import main
from taehv.config.params import DEFAULT_LIMITS, NO_CONVERSIONS, DataSource
from taehv.data import finished_files, list_videos
from taehv.data.annotations import read_annotations
from taehv.data.finished_files import FinishedFiles
from taehv.data.identity import IDENTITIES, content_digest
from taehv.data.inspect_video import Quarantined, inspect_video
from taehv.data.list_videos import check_listing
from taehv.data.manifest import ManifestEntry, read_manifest
from taehv.data.sources import FolderFiles, open_source
from taehv.runtime.errors import UserError
from taehv.runtime.hashing import sha256_of_file

MIB = 2**20


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with three videos of 3 MiB in a folder."""
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / f"videos/{name}.mp4").write_bytes(name.encode() * 3 * MIB)
    return tmp_path


def rows(manifest: Path = Path("data/manifest")) -> list[dict[str, str]]:
    with (manifest / "videos.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def change(path: Path, at: int) -> None:
    """Another byte; size and time stamp stay."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"?")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


class TestIdentity:
    @pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 3 * MIB])
    def test_one_identity_never_equals_the_other(self, here: Path, size: int) -> None:
        (here / "x").write_bytes(bytes(size))
        assert content_digest(here / "x", "sha256") == sha256_of_file(here / "x")
        assert len({content_digest(here / "x", identity) for identity in IDENTITIES}) == 2

    @pytest.mark.parametrize(
        ("at", "noticed"), [(0, True), (MIB - 1, True), (MIB, False), (2 * MIB - 1, False), (2 * MIB, True)]
    )
    def test_sampled_notices_a_change_at_both_ends_and_none_between_them(
        self, here: Path, at: int, noticed: bool
    ) -> None:
        video = here / "videos/a.mp4"
        sampled, whole = (content_digest(video, identity) for identity in ("sampled", "sha256"))  # type: ignore[arg-type]
        change(video, at)
        assert (content_digest(video, "sampled") != sampled) == noticed
        assert content_digest(video, "sha256") != whole
        video.write_bytes(video.read_bytes()[: MIB + 5] + video.read_bytes()[MIB + 4 :])
        assert content_digest(video, "sampled") != sampled

    def test_the_column_of_a_manifest_says_which_one_it_is_and_prepare_data_uses_the_same(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["manifest", "videos", "--identity", "sampled"]) == 0
        assert "3 videos, 9.0 MiB, identified by sampled" in capsys.readouterr().out
        assert list(rows()[0]) == ["path", "bytes", "sampled"]
        manifest = read_manifest(Path("data/manifest"))
        assert (manifest.identity, manifest.further) == ("sampled", ())
        for at, expected in ((MIB, "corrupt"), (0, "changed")):  # a byte between the ends is not seen: it is opened
            change(here / "videos/a.mp4", at)
            entry = next(iter(manifest))
            found = inspect_video((entry, here / "videos/a.mp4"), limits=DEFAULT_LIMITS, conversions=NO_CONVERSIONS)
            assert isinstance(found, Quarantined) and found.reason == expected
        assert isinstance(found, Quarantined) and found.detail == "its sampled sha256 is not the manifest's"

    def test_the_help_says_what_sampling_costs(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="0"):
            main(["manifest", "--help"])
        assert "a change between them that keeps the size goes unnoticed" in " ".join(
            capsys.readouterr().out.replace("\u2502", " ").split()
        )


class TestSources:
    def source(self, **changes: Any) -> DataSource:
        made: dict[str, Any] = {"source": "annotations", "path": "lists/list.csv", "root": None, "allow_outside": False}
        made |= {"limits": DEFAULT_LIMITS, "hdr": "exclude", "interlaced": "exclude", **changes}
        return DataSource(**made)

    def test_the_paths_of_a_list_begin_in_the_folder_that_root_names(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (here / "lists").mkdir()
        (here / "lists/list.csv").write_text("path\nb.mp4\n./a.mp4\n")
        assert main(["manifest", "lists/list.csv", "--root", "videos"]) == 0
        printed = capsys.readouterr().out
        assert "data: {source: annotations, path: lists/list.csv, root: videos}" in printed
        assert [row["path"] for row in rows()] == ["b.mp4", "a.mp4"]
        found = open_source(self.source(root="videos"))
        assert found.locate("b.mp4").samefile(here / "videos/b.mp4")
        with pytest.raises(UserError, match=r"below videos.*data\.root in params\.yaml, --root.*allow_outside: true"):
            found.locate("../lists/list.csv")

    def test_a_root_that_is_no_folder_is_one_clear_error(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (here / "lists").mkdir()
        (here / "lists/list.csv").write_text("path\nb.mp4\n")
        assert main(["manifest", "lists/list.csv", "--root", "absent"]) == 1
        assert "--root: " in (said := capsys.readouterr().err) and "absent is not a folder; name the one that" in said
        with pytest.raises(UserError, match=r"data\.root: .*absent is not a folder"):
            open_source(self.source(root="absent"))
        for other in (["videos"], ["--samples"]):
            with pytest.raises(SystemExit, match="2"):
                main(["manifest", *other, "--root", "videos"])
            assert "--root is for annotation files" in capsys.readouterr().err

    def test_further_columns_are_kept_and_shown(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (here / "videos/list.jsonl").write_text(
            '{"path": "a.mp4", "frames": 81, "sha256": "theirs"}\n'
            '{"path": "b.mp4", "caption": "=1+1", "frames": null}\n'
        )
        assert main(["manifest", "videos/list.jsonl"]) == 0
        assert "identified by sha256, with frames, sha256, caption\n" in capsys.readouterr().out
        kept = [{name: row[name] for name in ("frames", "annotation.sha256", "caption")} for row in rows()]
        assert kept == [
            {"frames": "81", "annotation.sha256": "theirs", "caption": ""},
            {"frames": "", "annotation.sha256": "", "caption": "'=1+1"},
        ]
        manifest = read_manifest(Path("data/manifest"))
        assert manifest.further == ("frames", "annotation.sha256", "caption")
        assert [entry.sha256 for entry in manifest] == [sha256_of_file(here / f"videos/{name}.mp4") for name in "ab"]

    def test_an_older_manifest_is_not_read_and_the_command_and_the_reader_say_what_to_do(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (here / "data").mkdir()
        (here / "data/manifest.csv").write_text(f"path,bytes,sha256\na.mp4,1,{'0' * 64}\n")
        with pytest.raises(UserError, match="of an older version, and is not read.*Move it there"):
            read_manifest(Path("data/manifest"))
        assert main(["manifest", "videos"]) == 0
        assert "delete data/manifest.csv, a manifest of an older version" in capsys.readouterr().out
        with pytest.raises(UserError, match="or delete it"):
            read_manifest(Path("data/manifest"))
        (here / "data/manifest").rename(here / "data/aside")
        subprocess.run(
            ["sh", "-c", "mkdir -p data/manifest && mv data/manifest.csv data/manifest/videos.csv"], check=True
        )
        assert [entry.path for entry in read_manifest(Path("data/manifest"))] == ["a.mp4"]


SAYS_WHEN_IT_SAVES = """
from taehv.cli import main
from taehv.data import finished_files

class Told(finished_files.FinishedFiles):
    def _save(self):
        super()._save()
        print("saved", flush=True)

finished_files._SAVED_EVERY_SECONDS = -1.0
from taehv.commands import manifest
manifest.FinishedFiles = Told
main(["manifest", "videos", "-j", "2"])
"""


class TestInterruptedRun:
    @pytest.fixture(autouse=True)
    def saved_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(finished_files, "_SAVED_EVERY_SECONDS", -1.0)

    def stopped_before_its_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run that has read all videos, and could not write the manifest."""
        with monkeypatch.context() as patch:
            patch.setattr(list_videos, "write_manifest", exhaust)
            assert main(["manifest", "videos"]) == 1

    def test_what_it_had_read_is_not_read_again_unless_size_or_time_stamp_differ(
        self, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.stopped_before_its_end(monkeypatch)
        old = {name: sha256_of_file(here / f"videos/{name}.mp4") for name in "abc"}
        change(here / "videos/a.mp4", MIB)
        (here / "videos/b.mp4").write_bytes(b"shorter")
        os.utime(here / "videos/c.mp4", ns=(1, 1))
        (here / "videos/0.mp4").write_bytes(b"new")
        capsys.readouterr()
        assert main(["manifest", "videos"]) == 0
        assert "going on with an interrupted run, which had read 3 videos" in capsys.readouterr().out
        found = {entry.path.removesuffix(".mp4"): entry.sha256 for entry in read_manifest(Path("data/manifest"))}
        assert found == {name: sha256_of_file(here / f"videos/{name}.mp4") for name in "0bc"} | {"a": old["a"]}

        assert main(["manifest", "videos"]) == 0  # a run that ends well leaves nothing for the next one
        assert "going on" not in capsys.readouterr().out
        assert next(e for e in read_manifest(Path("data/manifest")) if e.path == "a.mp4").sha256 != old["a"]

    def test_another_identity_or_folder_has_nothing_to_do_with_it(
        self, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.stopped_before_its_end(monkeypatch)
        (here / "videos").rename(here / "others")
        for arguments in (["others"], ["others", "--identity", "sampled"]):
            assert main(["manifest", *arguments]) == 0
        (here / "others").rename(here / "videos")
        assert main(["manifest", "videos", "--identity", "sampled"]) == 0
        assert "going on" not in capsys.readouterr().out

    def test_a_list_that_was_corrected_goes_on_too(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (here / "videos/list.csv").write_text("path\na.mp4\nabsent.mp4\nb.mp4\n")
        assert main(["manifest", "videos/list.csv"]) == 1
        said = capsys.readouterr().err
        assert "1 of 3 videos cannot be listed, and the manifest is as it was:\n  - absent.mp4: no such file" in said
        assert "it does not read the others again" in said
        (here / "videos/list.csv").write_text("path\na.mp4\nb.mp4\nc.mp4\n")
        assert main(["manifest", "videos/list.csv"]) == 0
        assert "which had read 2 videos" in capsys.readouterr().out
        assert [row["path"] for row in rows()] == ["a.mp4", "b.mp4", "c.mp4"]

    def test_a_damaged_record_of_it_is_one_error_that_names_what_to_delete(
        self, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.stopped_before_its_end(monkeypatch)
        (record,) = here.glob(".work/manifest/*/finished.sqlite")
        record.write_bytes(b"no database" * 1000)
        assert main(["manifest", "videos"]) == 1
        assert "finished.sqlite" in (said := capsys.readouterr().err) and "Delete it" in said
        record.unlink()
        assert main(["manifest", "videos"]) == 0

    def test_two_runs_on_the_same_videos_are_one_error(
        self, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.stopped_before_its_end(monkeypatch)
        (record,) = here.glob(".work/manifest/*/finished.sqlite")
        with sqlite3.connect(record) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert main(["manifest", "videos"]) == 1
        other.close()
        assert "another `taehv manifest` reads the same videos" in capsys.readouterr().err

    @pytest.mark.slow
    def test_a_killed_run_goes_on_from_what_was_finished(self, here: Path) -> None:
        for number in range(30):
            with (here / f"videos/{number:02}.mp4").open("wb") as file:
                file.truncate(2 * MIB + number)
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        with subprocess.Popen(
            [sys.executable, "-c", SAYS_WHEN_IT_SAVES],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as run:
            assert run.stdout is not None
            assert [run.stdout.readline() for _ in range(5)] == [b"saved\n"] * 5
            run.kill()
        assert not Path("data/manifest/videos.csv").exists()
        command = [sys.executable, "-m", "taehv.cli", "manifest", "videos"]
        again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        kept = re.search(r"going on with an interrupted run, which had read (\d+) videos", again.stdout)
        assert kept is not None and 5 <= int(kept[1]) < 33
        assert [entry.path for entry in read_manifest(Path("data/manifest"))] == sorted(
            video.name for video in (here / "videos").iterdir()
        )
        assert not [*here.glob(".work/manifest/*")]

    @pytest.mark.slow
    def test_a_full_disk_is_one_line_and_the_manifest_is_as_it_was(self, here: Path) -> None:
        needs_small_disks()
        (here / "data").mkdir()
        program = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        program += "from taehv.cli import main\nsys.exit(main(['manifest', 'videos']))"
        first = f"PYTHONPATH={REPOSITORY} {sys.executable} -m taehv.cli manifest videos"
        done = run_on_small_disk(
            here / "data",
            "nr_inodes=4",
            program,
            before=f"{first} && sha256sum data/manifest/* && touch data/other",
            after="sha256sum data/manifest/*; find data -name '*.partial*'",
        )
        assert done.returncode == 1, done.stderr
        assert "could not be written: the disk (or your quota) is full" in done.stderr
        sums = [line for line in done.stdout.splitlines() if line.endswith("data/manifest/videos.csv")]
        assert len(sums) == 2 and sums[0] == sums[1] and ".partial" not in done.stdout


def exhaust(_: Path, rows: Iterable[tuple[ManifestEntry, Mapping[str, str]]], **__: Any) -> None:
    """In place of ``write_manifest``: reads all rows, and fails."""
    assert [*rows]
    raise UserError("stopped")


def test_a_file_that_changes_while_it_is_read_is_not_listed(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def written_to(file: Path, identity: Any) -> str:
        with file.open("ab") as more:
            more.write(b"x")
        return "0" * 64

    monkeypatch.setattr(list_videos, "content_digest", written_to)
    assert main(["manifest", "videos"]) == 1
    assert "a.mp4 was changed while it was read" in capsys.readouterr().err


def test_the_order_and_the_bytes_do_not_depend_on_the_number_of_workers(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(100):
        (here / f"videos/{number % 7}").mkdir(exist_ok=True)
        (here / f"videos/{number % 7}/{number}.mp4").write_bytes(b"%d" % number)
    (here / "videos/1-.mp4").write_bytes(b"before 1/ in the order of texts")
    written = []
    for workers in (1, 2, 3):
        assert main(["manifest", "videos", "-j", str(workers)]) == 0
        written.append(Path("data/manifest/videos.csv").read_bytes())
    assert len(set(written)) == 1
    names = [row["path"] for row in rows()]
    assert names == sorted(names) and len(names) == 104


def test_names_that_come_twice_are_found_whatever_their_number(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a")
    text = "path\n" + "".join(f"{number}.mp4\n" for number in [*range(5000), 4321])
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=r"entry 5001: 4321\.mp4 is listed twice"):
        check_listing(lambda: read_annotations(tmp_path / "list.csv"), FolderFiles(tmp_path), "list.csv")


def test_nothing_is_kept_of_a_run_that_is_over_before_it_would_be_saved(tmp_path: Path) -> None:
    with FinishedFiles(tmp_path / "work") as finished:
        finished.add([("a.mp4", finished_files.SeenFile(1, 2, "0" * 64))])
    assert not (tmp_path / "work").exists()
