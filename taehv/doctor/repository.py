"""Git and DVC: whether the run can be made again from a commit."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from taehv.config.stage_keys import STAGE_KEYS
from taehv.doctor.check import Check, listed
from taehv.doctor.context import RunContext
from taehv.launch import dvc_locks, dvc_yaml
from taehv.runtime import paths
from taehv.runtime.errors import UserError
from taehv.runtime.yaml_files import YamlFileError, read_yaml
from taehv.tracking.environment import current_git

WRITTEN_BY_DVC = frozenset({"dvc.lock"})
"""DVC changes it after every stage; it is committed with the results."""
EXPERIMENT = "DVC_EXP_NAME"


def check_repository(context: RunContext) -> list[Check]:
    """One line about git, one about DVC, one about dvc.yaml, and what DVC could not save."""
    return [_check_git(), _check_dvc(), _check_dvc_yaml(), *_check_output_places()]


def _check_git() -> Check:
    commit = current_git().commit
    if commit == "unknown":
        found = "no commit is known here: the run cannot be made again from one"
        return Check("git", "warn", found, "work in a clone, or: git init && git add -A && git commit")
    changed = changed_files()
    experiment = os.environ.get(EXPERIMENT)
    if changed and experiment is None:
        count = f"{len(changed)} uncommitted file{'s' if len(changed) > 1 else ''}"
        found = f"{commit[:12]} with {count}: {listed(changed)}"
        return Check("git", "warn", found, "commit first, or the run cannot be made again from its commit")
    kept = f", changes kept by experiment {experiment}" if changed else ", nothing uncommitted"
    return Check("git", "pass", f"{commit[:12]}{kept}")


def changed_files() -> list[str]:
    """Tracked files that differ from the commit, and sources that git does not know."""
    lines = _git("status", "--porcelain", "--untracked-files=no") + _git(
        "ls-files", "--others", "--exclude-standard", "--", "taehv", "stages", "profiles"
    )
    names = [line[3:] if line[2:3] == " " else line for line in lines]
    return [name for name in names if name not in WRITTEN_BY_DVC]


def _check_dvc() -> Check:
    if not Path(".dvc").is_dir():
        return Check("DVC", "fail", "not initialised: there is no .dvc folder", "work in a clone, or run: dvc init")
    for path, problem in dvc_locks.damaged_lock_lists().items():
        alive = dvc_locks.living_dvc()
        if alive:
            return Check(
                "DVC", "fail", f"{path} {problem}", f"wait for {', '.join(alive)}, which runs DVC here, or end it"
            )
        advice = f"python -m taehv.launch deletes it at its start, no DVC is alive here; before dvc repro: rm {path}"
        return Check("DVC", "fail", f"{path} {problem}", advice)
    return Check("DVC", "pass", "initialised")


def _check_dvc_yaml() -> Check:
    """A parameter that dvc.yaml does not name can change without the stage running again."""
    try:
        content: Any = read_yaml(paths.DVC_YAML)
        stages = content["stages"]
        declared = {
            stage: {str(key).replace("scales.${scale}", "@") for key in stages[stage]["params"]} for stage in STAGE_KEYS
        }
    except (OSError, YamlFileError, KeyError, TypeError) as error:
        advice = "take it from the commit again: git checkout dvc.yaml"
        return Check("dvc.yaml", "fail", f"cannot be read ({type(error).__name__}: {error})", advice)
    wrong = [
        f"{stage}: {', '.join(sorted(declared[stage] ^ set(keys)))}"
        for stage, keys in STAGE_KEYS.items()
        if declared[stage] != set(keys)
    ]
    if wrong:
        advice = "make params there equal to STAGE_KEYS of taehv/config/stage_keys.py, or DVC will not notice a change"
        return Check("dvc.yaml", "warn", f"params differ from what the results depend on: {listed(wrong)}", advice)
    return Check("dvc.yaml", "pass", "its params are those that the results depend on")


def _check_output_places() -> list[Check]:
    try:
        dvc_yaml.check_output_places()
    except UserError as error:
        problem, _, advice = str(error).partition(": ")
        return [Check("outputs", "fail", problem, advice)]
    return []


def _git(*arguments: str) -> list[str]:
    command = ["git", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace")
    return [line for line in done.stdout.splitlines() if line]
