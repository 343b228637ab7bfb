"""DVC's lists of locks, which a crash can leave unreadable.

DVC writes `.dvc/tmp/rwlock`, the list of who works on which output, in place. A full disk, or a kill at that moment,
leaves it cut off; every later command then ends with "JSON structure is corrupted" (exit code 255).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
from filelock import lock_descriptor

from taehv.runtime import paths
from taehv.runtime.errors import UserError

LOCK_LISTS = (Path(".dvc/tmp/rwlock"), Path(".dvc/tmp/exps/rwlock"))
"""For the stages, and for experiments."""


def damaged_lock_lists() -> dict[Path, str]:
    """The lists of locks in the main repository that DVC cannot read, each with the reason."""
    damage = {paths.main_repository() / path: _damage_of(paths.main_repository() / path) for path in LOCK_LISTS}
    return {path: problem for path, problem in damage.items() if problem is not None}


def fix_lock_lists() -> list[str]:
    """Delete the lists of locks that DVC cannot read, where no DVC is alive to which one could belong.

    Returns:
        What was done, a line for each; empty where there was nothing to do.

    Raises:
        UserError: a DVC works in this repository, so that nothing is deleted.
    """
    return [_fix(path, problem) for path, problem in damaged_lock_lists().items()]


def _fix(path: Path, problem: str) -> str:
    with path.with_name(f"{path.name}.lock").open("a", encoding="utf-8") as guard:
        # The same lock as DVC's own around each change of the list: flock of the whole file.
        is_ours = lock_descriptor(guard.fileno(), blocking=False)
        alive = living_dvc() if is_ours else ["a process that is changing the list"]
        if not alive and _damage_of(path) is not None:
            path.unlink(missing_ok=True)
    if alive:
        raise UserError(
            f"{path} {problem}, and DVC is working here ({', '.join(alive)}): wait for it or end it, and run the same "
            f"command again"
        )
    return f"{path} {problem}. No DVC is alive here, so nothing is locked: it was deleted"


def _damage_of(path: Path) -> str | None:
    try:
        content: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return "is cut off, so that every DVC command ends with exit code 255"
    except OSError as error:
        return f"cannot be read ({error.strerror}), so that every DVC command ends with exit code 255"
    return None if _has_dvcs_form(content) else "is no list of locks, so that every DVC command ends with exit code 255"


def living_dvc() -> list[str]:
    """The DVC commands of this machine that work in the main repository, or in an experiment's copy below it."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = process.info["cmdline"] or []
        if not _is_dvc(command):
            continue
        try:
            here = Path(process.cwd()).resolve().is_relative_to(paths.main_repository())
        except psutil.NoSuchProcess:
            continue
        except (psutil.Error, OSError):
            here = True  # someone else's, who does not tell where
        if here:
            found.append(f"process {process.info['pid']}")
    return found


def _is_dvc(command: list[str]) -> bool:
    names = {Path(word).name for word in command[:2]}
    return "dvc" in names or any(command[i : i + 2] == ["-m", "dvc"] for i in range(len(command) - 1))


def _has_dvcs_form(content: Any) -> bool:
    """`{"write": {path: {"pid", "cmd"}}, "read": {path: [{"pid", "cmd"}, ...]}}`, as dvc/rwlock.py requires."""
    if not isinstance(content, dict) or not content.keys() <= {"write", "read"}:
        return False
    write, read = content.get("write", {}), content.get("read", {})
    if not isinstance(write, dict) or not isinstance(read, dict) or not all(isinstance(v, list) for v in read.values()):
        return False
    infos = [*write.values(), *(info for infos in read.values() for info in infos)]
    return all(
        isinstance(info, dict)
        and info.keys() == {"pid", "cmd"}
        and type(info["pid"]) is int
        and isinstance(info["cmd"], str)
        for info in infos
    )
