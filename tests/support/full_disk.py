"""Running a program on a disk that really is full: a small file system in memory, mounted for this program alone."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest


def needs_small_disks() -> None:
    """Skip the test where a user may not mount a file system in a name space of his own."""
    probe = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True)
    if probe.returncode != 0:
        pytest.skip(f"no file system can be mounted for one program here: {probe.stderr.strip()}")


def run_on_small_disk(
    mount_point: Path, size: str, program: str, *arguments: object, before: str = "true", after: str = "true"
) -> subprocess.CompletedProcess[str]:
    """Run Python code while a fresh disk of ``size`` (tmpfs options) is mounted; its content is gone afterwards.

    Args:
        mount_point: an existing folder.
        size: for example ``size=1m`` or ``nr_inodes=10``.
        program: Python code.
        arguments: of the program.
        before, after: shell commands around it, on the same disk; the output of ``after`` is in stdout.
    """
    python = shlex.join([sys.executable, "-c", program, *map(str, arguments)])
    script = f"mount -t tmpfs -o {size} tmpfs {shlex.quote(str(mount_point))} && {{ {before}; }} && {python}; code=$?; "
    script += f"{{ {after}; }}; exit $code"
    return subprocess.run(["unshare", "-rm", "bash", "-c", script], capture_output=True, text=True, timeout=300)
