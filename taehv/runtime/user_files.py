"""Opening what a user names: regular files only.

Reading a pipe waits for a writer, reading a device may never end, and a link can lead to either. Every reader of files
that a user names (models, latents, annotations, manifests, parameters) asks here before it opens one.
"""

from __future__ import annotations

import stat
from pathlib import Path

from taehv.runtime.errors import UserError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def regular_file(path: Path, error: type[UserError] = UserError) -> Path:
    """``path``, which is a regular file, or a link to one.

    Raises:
        UserError: of the class ``error``: there is no such file, it cannot be looked at, or it is something else.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as missing:
        raise error(f"there is no file {shown(path)}") from missing
    except (OSError, ValueError) as other:  # ValueError: a character that no file name can hold
        raise error(f"{shown(path)} cannot be opened: {_reason(other)}") from other
    if not stat.S_ISREG(mode):
        raise error(f"{shown(path)} is {kind_of(mode)}, not a regular file; name a file, or copy its content into one")
    return path


def kind_of(mode: int) -> str:
    """What a file's mode says that it is, in words."""
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "a regular file")


def shown(name: str | Path) -> str:
    """A name as one line of text that any terminal and any log can take: what is not printable is escaped."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in str(name))


def is_utf8(name: str) -> bool:
    """Whether a name is text: Python keeps other bytes of names, and JSON's lone surrogates, as half characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
