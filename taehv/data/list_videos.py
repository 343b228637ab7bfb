"""From a source of videos to the entries of a manifest: each file is read once, in parallel, resumably."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from taehv.data.annotations import Annotation
from taehv.data.finished_files import FinishedFiles, SeenFile
from taehv.data.identity import Identity, content_digest
from taehv.data.manifest import ManifestEntry
from taehv.data.manifest_writer import write_manifest
from taehv.data.repeated_names import RepeatedNames
from taehv.data.sources import VideoFiles
from taehv.data.workers import Mapper, advance, progress_bar
from taehv.runtime.errors import UserError
from taehv.runtime.user_files import regular_file, shown

_MOST_COLUMNS = 100
_NAMED = 20
"""Problems that are named."""
_LARGEST_TASK = 32
"""Files that a worker reads before it answers: tiny ones do not wait for each other's answers."""
_TASKS_PER_WORKER = 16
"""Of a short list, so that no worker is left with a long task at its end."""
_QUIET_SECONDS = 2.0
"""A list whose check takes longer has a progress bar."""


@dataclass(frozen=True)
class Listing:
    """The videos that a source lists, checked as far as that is possible without looking at them."""

    read: Callable[[], Iterator[Annotation]]
    """Reads the list, from its beginning; the paths are as a manifest has them."""
    videos: int
    further: tuple[str, ...]
    """The names of its further columns, in the order in which they come up."""


def check_listing(read: Callable[[], Iterator[Annotation]], files: VideoFiles, origin: Path | str) -> Listing:
    """Read a list once, in bounded memory (8 bytes for each video).

    Args:
        read: reads the list, from its beginning.
        files: what the listed paths may be.
        origin: what to call the list.

    Raises:
        UserError: it cannot be read, lists nothing or a video twice, or a path may not be used.
    """

    def plain() -> Iterator[Annotation]:
        return (Annotation(files.plain(one.path), one.further) for one in read())

    repeated, further, videos = RepeatedNames(), dict[str, None](), 0
    with progress_bar(f"checking {shown(origin)}", "video", None, _QUIET_SECONDS) as bar:
        for one in plain():
            repeated.add(one.path)
            videos += 1
            bar.update()
            if not one.further.keys() <= further.keys():
                further.update(dict.fromkeys(one.further))
            if len(further) > _MOST_COLUMNS:
                raise UserError(f"{origin} has more than {_MOST_COLUMNS} different columns; leave some out")
    twice = repeated.find((f"entry {number}", one.path) for number, one in enumerate(plain(), start=1))
    for where, name in twice:
        raise UserError(f"{origin}: {where}: {shown(name)} is listed twice; each video may be listed once")
    if not videos:
        raise UserError(f"{origin} lists no videos")
    return Listing(plain, videos, tuple(further))


def describe(files: VideoFiles, names: Iterable[str]) -> list[ManifestEntry]:
    """The manifest entries of a few existing files, by the sha256 of all of them.

    Raises:
        UserError: one of the files does not exist or may not be used.
    """
    seen = ((name, _look(files, name, "sha256", None)) for name in names)
    return [ManifestEntry(name, one.bytes, one.digest) for name, one in seen]


def list_videos(
    listing: Listing,
    files: VideoFiles,
    identity: Identity,
    mapper: Mapper,
    workers: int,
    finished: FinishedFiles,
    manifest: Path,
) -> int:
    """Write the manifest of a source; returns the bytes of all its videos.

    Args:
        listing: what to list.
        files: finds them.
        identity: what identifies their content.
        mapper: reads them; ``workers`` at a time.
        workers: see there.
        finished: what an interrupted run had finished, and what this one has.
        manifest: the folder to write.

    Raises:
        UserError: files cannot be read (the first are named), or the manifest not written. What is finished is kept.
    """
    run = _Run(files, identity, finished)
    size = min(max(listing.videos // (workers * _TASKS_PER_WORKER), 1), _LARGEST_TASK)
    rows = run.rows(mapper, listing, size)
    write_manifest(manifest, rows, videos=listing.videos, identity=identity, further=listing.further)
    finished.forget()
    return run.bytes


_Task = Sequence[tuple[str, SeenFile | None]]
"""Files, by their path in the manifest, and what an interrupted run had found out about them."""


class _Run:
    """One reading of all files."""

    def __init__(self, files: VideoFiles, identity: Identity, finished: FinishedFiles) -> None:
        self._files, self._identity, self._finished = files, identity, finished
        self._problems: list[str] = []
        self._unusable = 0
        self.bytes = 0

    def rows(self, mapper: Mapper, listing: Listing, size: int) -> Iterator[tuple[ManifestEntry, Mapping[str, str]]]:
        """The manifest's rows, in the order of the list; an error after the last one if files cannot be read."""
        here, there = itertools.tee(_tuples(listing.read(), size))  # holds what is handed out and not yet given back
        described = mapper.map(
            functools.partial(_look_at_all, files=self._files, identity=self._identity),
            (self._task(some) for some in there),
            label="reading videos",
            unit="video",
            total=listing.videos,
            name=lambda task: shown(task[0][0]),
        )
        for some, found in zip(here, described, strict=True):
            names = [annotation.path for annotation in some]
            self._finished.add((name, one) for name, one in zip(names, found, strict=True) if isinstance(one, SeenFile))
            for annotation, one in zip(some, found, strict=True):
                if isinstance(one, SeenFile):
                    self.bytes += one.bytes
                    yield ManifestEntry(annotation.path, one.bytes, one.digest, self._identity), annotation.further
                else:
                    self._unusable += 1
                    self._problems += [f"  - {one}"] if self._unusable <= _NAMED else []
        if self._unusable:
            raise self._error(listing)

    def _task(self, some: Sequence[Annotation]) -> _Task:
        names = [annotation.path for annotation in some]
        return list(zip(names, self._finished.look_up(names), strict=True))

    def _error(self, listing: Listing) -> UserError:
        more = [f"  and {self._unusable - _NAMED} more"] if self._unusable > _NAMED else []
        head = f"{self._unusable} of {listing.videos} videos cannot be listed, and the manifest is as it was:"
        advice = "Fix them, or take them out, and run the same command again: it does not read the others again"
        return UserError("\n".join([head, *self._problems, *more, advice]))


def _tuples(annotations: Iterator[Annotation], size: int) -> Iterator[tuple[Annotation, ...]]:
    while some := tuple(itertools.islice(annotations, size)):
        yield some


def _look_at_all(task: _Task, *, files: VideoFiles, identity: Identity) -> list[SeenFile | str]:
    """What is found out about each file, or why nothing is; runs in a worker process."""
    found: list[SeenFile | str] = []
    for name, before in task:
        try:
            found.append(_look(files, name, identity, before))
        except UserError as error:
            found.append(str(error))
        advance()
    return found


def _look(files: VideoFiles, name: str, identity: Identity, before: SeenFile | None) -> SeenFile:
    file = files.locate(name)
    try:
        if not file.exists():
            raise UserError(f"{shown(name)}: no such file ({shown(file)})")
        stat = regular_file(file).stat()
        if before is not None and (stat.st_size, stat.st_mtime_ns) == (before.bytes, before.mtime_ns):
            return before
        seen = SeenFile(stat.st_size, stat.st_mtime_ns, content_digest(file, identity))
        stat = file.stat()
    except OSError as error:
        raise UserError(f"{shown(name)} cannot be read: {error.strerror}") from error
    if (stat.st_size, stat.st_mtime_ns) != (seen.bytes, seen.mtime_ns):
        raise UserError(f"{shown(name)} was changed while it was read; run it again when nothing writes to it")
    return seen
