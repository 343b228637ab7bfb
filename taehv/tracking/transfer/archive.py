"""Exported runs on disk: a folder, or the same folder in a .tar file.

export.json                     which runs and models
runs/<run id>/run.json          what it is;  metrics.jsonl: every point;  artifacts/
models/<model id>/model.json    what it is, and its metrics;  artifacts/
registry.json                   registered versions of these models, with their aliases (older exports have none)
"""

from __future__ import annotations

import lzma
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath

from taehv.runtime import atomic_files
from taehv.runtime.errors import UserError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
INDEX = "export.json"
REGISTRY = "registry.json"


class ArchiveError(UserError):
    """An export that cannot be written or read."""


@contextmanager
def packed(target: Path) -> Iterator[Path]:
    """A folder to write into; ``target`` appears when it is complete.

    Raises:
        ArchiveError: there is something at ``target`` already, or it cannot be written.
    """
    if target.exists():
        raise ArchiveError(f"{target} is there already; choose another place, or delete it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".taehv-export-") as temporary:
            folder = Path(temporary) / "export"
            folder.mkdir()
            yield folder
            if is_tar(target):
                mode = "w:gz" if target.name.endswith("gz") else "w"
                with atomic_files.replacing(target) as partial, tarfile.open(partial, mode) as tar:  # type: ignore[call-overload]
                    tar.add(folder, arcname=".")
            else:
                folder.rename(target)
    except OSError as error:
        raise ArchiveError(f"{target} cannot be written: {error.strerror}") from error


@contextmanager
def unpacked(source: Path) -> Iterator[Path]:
    """The folder with an export's files.

    Raises:
        ArchiveError: there is no export at ``source``.
    """
    if source.is_dir():
        yield _checked(source, source)
        return
    if not source.is_file():
        raise ArchiveError(f"there is no file or folder {source}")
    with tempfile.TemporaryDirectory(prefix="taehv-import-") as temporary:
        try:
            with tarfile.open(source) as tar:
                _extract(tar, Path(temporary))
        # tarfile lets the errors of the compressions, and of its own number parsing, through.
        except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError) as error:
            reason = " ".join(str(error).split("\n")[:1])
            raise ArchiveError(f"{source} is not a .tar file of taehv track export ({reason})") from error
        yield _checked(Path(temporary), source)


def is_tar(path: Path) -> bool:
    """Whether the name asks for one file."""
    return path.name.endswith(TAR_SUFFIXES)


def _checked(folder: Path, source: Path) -> Path:
    if not (folder / INDEX).is_file():
        raise ArchiveError(f"{source} was not written by taehv track export: it has no {INDEX}")
    if link := next((path for path in folder.rglob("*") if path.is_symlink()), None):
        raise _escape(source, link.relative_to(folder))
    return folder


def _extract(tar: tarfile.TarFile, folder: Path) -> None:
    """Files and folders alone, below ``folder``. Python's own filter for this is not in every 3.11."""
    for member in tar:
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
            raise _escape(Path(str(tar.name)), name)
        target = folder / name
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(member)
        assert content is not None
        with content, target.open("wb") as file:
            shutil.copyfileobj(content, file)


def _escape(source: Path, name: PurePath) -> ArchiveError:
    return ArchiveError(
        f"{source} was not written by taehv track export: {name} is a link, or no file of it, and could lead to "
        "any file of this machine"
    )
