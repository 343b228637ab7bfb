"""The commands that a damaged clip store's error names do restore it: real DVC, every kind of link to its cache."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from taehv.data.clip_store import ClipStore
from taehv.data.store_files import StoreError

pytestmark = pytest.mark.slow

CLIPS = Path("data/clips")
SHARD = CLIPS / "test-000000.tar"
MAKE_CLIPS = (
    "from pathlib import Path; from support import clip_stores; clip_stores.write_test_store(Path('data/clips'))"
)


def shell(command: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def change_in_place(file: Path) -> None:
    """As a bad disk does it: other bytes, the same time stamps, through whatever link."""
    before = file.stat()
    file.chmod(0o644)
    with file.open("r+b") as shard:
        shard.seek(1000)  # in the first clip's pixels
        shard.write(b"wrong")
    file.chmod(before.st_mode)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut_off(file: Path) -> None:
    mode = file.stat().st_mode
    file.chmod(0o644)
    os.truncate(file, 300)
    file.chmod(mode)


@pytest.fixture(params=["copy", "hardlink", "symlink"])
def tracked(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose clips DVC has in its cache and on a remote."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    shell(f"git init -q && dvc init -q && dvc config cache.type {request.param}")
    shell(f"dvc remote add -q -d elsewhere {tmp_path / 'remote'}")
    Path("make_clips.py").write_text(MAKE_CLIPS)
    shell(f"dvc stage add -q -n prepare_data -d make_clips.py -o {CLIPS} {sys.executable} make_clips.py")
    shell("dvc repro -q && dvc push -q")
    return project


@pytest.mark.soak
@pytest.mark.parametrize("damage", [change_in_place, cut_off, Path.unlink])
@pytest.mark.parametrize("way", ["from DVC", "anew"])
def test_the_named_commands_restore_a_damaged_shard(tracked: Path, damage: object, way: str) -> None:
    assert callable(damage)
    damage(SHARD)
    with pytest.raises(StoreError) as caught:
        ClipStore.open(CLIPS, "test").verify()
    restore, anew = re.search(r"Restore it with: (.+)\n.*: (dvc repro .+)$", str(caught.value)).groups()  # type: ignore[union-attr]
    if way == "from DVC":
        shell(restore)
    else:
        shell(f"{re.sub(r'(&&|;) dvc (checkout|pull).*', '', restore)}; {anew}")
    ClipStore.open(CLIPS, "test").verify()


def test_a_sound_store_opens_and_a_damaged_one_is_restored_by_the_first_command_that_is_named(tracked: Path) -> None:
    ClipStore.open(CLIPS, "test").verify()
    change_in_place(SHARD)
    with pytest.raises(StoreError) as caught:
        ClipStore.open(CLIPS, "test").verify()
    shell(str(caught.value).partition("Restore it with: ")[2].splitlines()[0])
    ClipStore.open(CLIPS, "test").verify()
