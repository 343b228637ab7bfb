"""What takes long to build is built once for all of pytest's processes, in a folder that they share."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """The folder ``name``, filled by the first process that asks; the others wait for it, and only read from it.

    Where ``build`` fails, each of them is told at once what it failed with. Where its process dies, the system takes
    the lock away from it, and the next one begins anew. As pytest-xdist's documentation advises:
    https://pytest-xdist.readthedocs.io/en/stable/how-to.html#making-session-scoped-fixtures-execute-only-once
    """
    own = factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "built-once"
    shared.mkdir(exist_ok=True)
    folder, whole, failed = (shared / f"{name}{suffix}" for suffix in ("", ".whole", ".failed"))
    with FileLock(shared / f"{name}.lock"):
        if failed.exists():
            pytest.fail(
                f"{name} could not be built, in another process or before:\n{failed.read_text()}", pytrace=False
            )
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            try:
                build(folder)
            except (Exception, pytest.fail.Exception):
                failed.write_text(traceback.format_exc())
                raise
            whole.touch()
    return folder
