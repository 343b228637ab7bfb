"""The videos of a folder: which files are taken, which are left aside, and why."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

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


def search_folder(folder: Path, aside: LeftAside) -> Iterator[str]:
    """All videos below a folder, by suffix, as relative paths with forward slashes, sorted as texts.

    What is in one folder is held at a time, never the whole tree.

    Args:
        folder: where to look.
        aside: is told what is left aside.

    Raises:
        UserError: it is no folder, or cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{shown(folder)} is not a folder")
    open_folders = [_sorted_entries(folder, "", folder, aside)]
    while open_folders:
        entry = next(open_folders[-1], None)
        if entry is None:
            open_folders.pop()
        elif not entry.name.endswith("/"):
            reason = _reason_to_leave(entry.file, entry.name)
            if reason is None:
                yield entry.name
            else:
                aside.add(reason, entry.name)
                if reason == "not a supported container":
                    aside.suffixes[shown(entry.file.suffix.lower()) or "without suffix"] += 1
        elif _is_trash(entry.file.name):
            for _ in _files_below(entry.file):
                aside.add("hidden, or in a hidden or trash folder", entry.name)
        else:
            open_folders.append(_sorted_entries(entry.file, entry.name, folder, aside))


class _Entry(NamedTuple):
    """What a folder holds: a folder, whose name ends in a slash, or anything else, links to folders among it."""

    name: str
    """Relative to where the search began."""
    file: Path


def _sorted_entries(place: Path, prefix: str, top: Path, aside: LeftAside) -> Iterator[_Entry]:
    """In the order in which the paths below them sort: a folder's slash takes part in it."""
    try:
        with os.scandir(place) as found:
            names = [entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in found]
    except OSError as error:
        if place == top:
            raise UserError(f"{shown(top)} cannot be read: {error.strerror}") from error
        aside.add("a folder that cannot be read", prefix.removesuffix("/"))
        return
    for name in sorted(names):
        yield _Entry(prefix + name, place / name)


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
