"""One trainer per work folder, whatever becomes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.project import REPOSITORY

from taehv.runtime.errors import UserError
from taehv.training.lock import work_lock

HOLDS_IT = """
import sys, time
from pathlib import Path
from taehv.training.lock import work_lock
with work_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_trainer_is_refused_and_the_lock_of_a_killed_one_is_taken_over(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS_IT, str(tmp_path / "work")]
    first = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    name = f"process {first.pid} on {os.uname().nodename}"
    with (
        pytest.raises(UserError, match=f"^{name} is already training in .*work; wait for it"),
        work_lock(tmp_path / "work"),
    ):
        pass
    first.kill()
    first.communicate()
    with work_lock(tmp_path / "work") as predecessor:
        assert predecessor == name
    with work_lock(tmp_path / "work") as predecessor:
        assert predecessor is None, "the last one left it as it should be"
