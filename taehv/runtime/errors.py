"""Errors that are the user's to fix, and how a program ends with one."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from taehv.runtime import signals
from taehv.runtime.text_encoding import use_utf8

EXIT_FAILED = 1
EXIT_BAD_CONFIG = 2

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EEXIST,
)
# safetensors writes in Rust, whose errors carry the number in their text alone.
_DISK_FULL_IN_RUST = tuple(f"(os error {number})" for number in _DISK_FULL)
_NOT_WRITABLE_IN_RUST = {f"(os error {number})": number for number in _NOT_WRITABLE}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the dotted key, and what is wrong with it and allowed instead."""

    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message lists every problem."""

    def __init__(self, origin: str, problems: list[Problem]) -> None:
        self.origin = origin
        self.problems = problems
        count = f"{len(problems)} problem" + ("s" if len(problems) != 1 else "")
        super().__init__(f"{origin}: {count}\n" + "\n".join(f"  - {problem}" for problem in problems))


class UserError(Exception):
    """Something outside the program is wrong. The message says what, and what to do next; no traceback is shown."""


class Interrupted(BaseException):
    """The program was asked to stop, and left everything as a later start needs it. The message says how to go on.

    Not an Exception, like KeyboardInterrupt: nobody who handles errors may take it for one.
    """

    def __init__(self, reason: str, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """The signal's name, or what else asked."""
        self.exit_code = exit_code


class NotWritableError(UserError):
    """A file cannot be written where it was asked for. Made by ``writing``."""


class DiskFullError(UserError):
    """A file could not be written for want of space. Made by ``disk_full``."""


def is_disk_full(error: BaseException) -> bool:
    """Whether the error says that the disk, its table of files or the user's quota is full."""
    if isinstance(error, OSError):
        return error.errno in _DISK_FULL
    return any(text in str(error) for text in _DISK_FULL_IN_RUST)


def disk_full(path: Path | None) -> DiskFullError:
    """The error for a file that could not be written; None where it is not known which."""
    folder = Path.cwd() if path is None else path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    disk = os.statvfs(folder)
    # Some file systems have no table of files that could be full; they count 0 of 0.
    files = f" and {disk.f_favail} files" if disk.f_files else ""
    return DiskFullError(
        f"{path or 'a file'} could not be written: the disk (or your quota) is full, "
        f"{disk.f_bavail * disk.f_frsize / 2**20:,.1f} MiB{files} are free in {folder}. "
        "Free some space there and run the same command again; files that were complete before are untouched"
    )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around the writing of ``path``: what its place does not allow becomes an error that names it.

    Raises:
        DiskFullError: there is no space left.
        NotWritableError: the place is read-only, not ours, no folder, or no file can have that name.
    """
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise disk_full(path) from error
        reason = _why_not_writable(error, path)
        if reason is None:
            raise
        raise NotWritableError(f"{path} cannot be written: {reason}; choose another place, or fix that one") from error


def _why_not_writable(error: Exception, path: Path) -> str | None:
    """What the system says of the place; None for any other error, also about another file that is read meanwhile."""
    if not isinstance(error, OSError):
        number = next((number for text, number in _NOT_WRITABLE_IN_RUST.items() if text in str(error)), None)
        return None if number is None else os.strerror(number)
    if error.errno not in _NOT_WRITABLE or not _is_about(error.filename, path):
        return None
    return os.strerror(error.errno)


def _is_about(named: object, path: Path) -> bool:
    """Whether the file that an error names is ``path``, its partial file that is written first, or a folder above."""
    if not isinstance(named, str | bytes):
        return False
    there, wanted = Path(os.fsdecode(named)).absolute(), path.absolute()
    is_partial = there.parent == wanted.parent and ".partial" in there.name
    return there == wanted or is_partial or there in wanted.parents


def exit_code(main: Callable[[], int]) -> int:
    """What ``main`` returns; 2 for a wrong configuration, 1 for another error the user can fix, which are printed.

    After an interruption: 128 plus the signal's number, as shells expect.
    """
    try:
        return main()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_CONFIG
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except Interrupted as stop:
        print(f"stopped by {stop.reason}: {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("stopped by SIGINT", file=sys.stderr)
        return signals.EXIT_CODES["SIGINT"]
    except Exception as error:
        if not is_disk_full(error):
            raise
        named = error.filename if isinstance(error, OSError) else None
        print(
            f"error: {disk_full(Path(os.fsdecode(named)) if isinstance(named, str | bytes) else None)}", file=sys.stderr
        )
        return EXIT_FAILED


def exit_with(main: Callable[[], int]) -> NoReturn:
    """The whole of a program: UTF-8, ``main``, and the end with ``exit_code``."""
    use_utf8()
    sys.exit(exit_code(main))
