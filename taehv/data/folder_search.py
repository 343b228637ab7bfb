"""The videos of a folder: which files are taken, which are left aside, and why."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from taehv.runtime.errors import UserError
from taehv.runtime.user_files import is_utf8, shown

# Each is a container that taehv/data/decode.py opens.
VIDEO_SUFFIXES = frozenset(
    {".3g2", ".3gp", ".apng", ".asf", ".avi", ".divx", ".f4v", ".flv", ".gif", ".m2t", ".m2ts", ".m4v", ".mj2", ".mkv"}
    | {".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogm", ".ogv", ".qt", ".ts", ".vob", ".webm", ".wmv"}
)
TRASH = frozenset(
    {
        "@eadir",
        "@recycle",
        "#recycle",
        "$recycle.bin",
        "__macosx",
        "lost+found",
        "recycler",
        "system volume information",
    }
)
"""Folders of NAS systems, Windows, macOS archives and file systems, in lower case. Hidden names are another rule."""

Reason = Literal[
    "not a supported container",
    "hidden, or in a hidden or trash folder",
    "no regular file, or a link to nothing",
    "a link to a folder, which is not followed",
    "a folder that cannot be read",
    "a name that is not UTF-8",
    "a backslash in its name",
]


_Text = TypeVar("_Text", bound=str)
_KINDS = 8
"""Suffixes that are named on the screen."""


@dataclass
class LeftAside:
    """What a search did not take."""

    counts: Counter[Reason] = field(default_factory=Counter)
    examples: dict[Reason, str] = field(default_factory=dict)
    suffixes: Counter[str] = field(default_factory=Counter)
    """Of the files that are in no supported container."""

    def add(self, reason: Reason, name: str) -> None:
        self.counts[reason] += 1
        self.examples[reason] = min(name, self.examples.get(reason, name))  # not the first in the disk's order

    def lines(self) -> Iterator[str]:
        """One for each reason: how many, and for example which."""
        for reason, count in _most_common(self.counts):
            kinds = ", ".join(f"{number} {suffix}" for suffix, number in _most_common(self.suffixes)[:_KINDS])
            example = kinds if reason == "not a supported container" else f"for example {shown(self.examples[reason])}"
            yield f"left aside: {count} {reason} ({example})"


def search_folder(folder: Path) -> tuple[list[str], LeftAside]:
    """All videos below a folder, by suffix, as sorted relative paths with forward slashes, and what was left aside.

    Raises:
        UserError: it is no folder, or cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{shown(folder)} is not a folder")
    names: list[str] = []
    aside = LeftAside()

    def unreadable(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise UserError(f"{shown(folder)} cannot be read: {error.strerror}") from error
        aside.add("a folder that cannot be read", os.path.relpath(error.filename, folder))

    for place, folders, files in os.walk(folder, onerror=unreadable):
        inside = Path(place).relative_to(folder)
        for name in [*files, *(name for name in folders if (Path(place) / name).is_symlink())]:
            relative = (inside / name).as_posix()
            reason = _reason_to_leave(Path(place) / name, relative)
            if reason is None:
                names.append(relative)
            else:
                aside.add(reason, relative)
                if reason == "not a supported container":
                    aside.suffixes[shown(Path(name).suffix.lower()) or "without suffix"] += 1
        for name in [name for name in folders if _is_trash(name)]:
            folders.remove(name)
            for _ in _files_below(Path(place) / name):
                aside.add("hidden, or in a hidden or trash folder", (inside / name).as_posix() + "/")
    return sorted(names), aside


def _most_common(counts: Counter[_Text]) -> list[tuple[_Text, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _files_below(folder: Path) -> Iterator[str]:
    for _, _, files in os.walk(folder):
        yield from files


def _reason_to_leave(file: Path, relative: str) -> Reason | None:
    try:
        mode = file.stat().st_mode
    except OSError:
        mode = 0
    if _is_trash(file.name):
        return "hidden, or in a hidden or trash folder"
    if stat.S_ISDIR(mode):
        return "a link to a folder, which is not followed"
    if file.suffix.lower() not in VIDEO_SUFFIXES:
        return "not a supported container"
    if not stat.S_ISREG(mode):
        return "no regular file, or a link to nothing"
    if not is_utf8(relative):
        return "a name that is not UTF-8"
    return "a backslash in its name" if "\\" in relative else None


def _is_trash(name: str) -> bool:
    return name.startswith(".") or name.lower() in TRASH
