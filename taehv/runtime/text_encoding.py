"""UTF-8 for file names, files, and what is printed, whatever the locale says.

params.yaml, manifests and journals are UTF-8, and so are the names of videos on every disk of today. Under a locale
like zh_CN.GBK or en_US.ISO-8859-1, Python would name other files than the ones that are there, and end with a traceback
when it prints a name that the locale cannot.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

OUTPUT = "utf-8:backslashreplace"
"""A name that is not UTF-8 is printed as \\xNN; printing ends no program."""


def use_utf8() -> None:
    """Called first by every program of ours. Starts it again in UTF-8 mode where Python took another encoding.

    The process keeps its id, arguments and open files, and all that it starts inherits the mode (PEP 540).
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        environment = {**os.environb, b"PYTHONUTF8": b"1", b"PYTHONIOENCODING": OUTPUT.encode()}
        os.execve(sys.executable, [os.fsencode(sys.executable), *_arguments()], environment)
    os.environ["PYTHONIOENCODING"] = OUTPUT
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _arguments() -> list[bytes]:
    """Those of the interpreter, byte for byte: C reads GBK into sys.argv in a way that Python cannot write back."""
    try:
        return Path("/proc/self/cmdline").read_bytes().split(b"\0")[1:-1]
    except FileNotFoundError:
        return [os.fsencode(word) for word in sys.orig_argv[1:]]
