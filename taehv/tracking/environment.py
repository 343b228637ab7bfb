"""What a run ran on: code, packages, machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Git:
    """The code that ran."""

    commit: str
    """`unknown` outside a git repository."""
    dirty: str
    """`true`, `false`, or `unknown`."""


def current_git() -> Git:
    """Commit and uncommitted changes of the working directory."""
    try:
        commit = _git("rev-parse", "HEAD")
        return Git(commit, "true" if _git("status", "--porcelain", "--untracked-files=no") else "false")
    except (OSError, subprocess.CalledProcessError):
        return Git("unknown", "unknown")


def gpu_names() -> list[str]:
    """The visible GPUs."""
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def describe_environment() -> dict[str, Any]:
    """Everything that helps to run the same again: versions, packages, machine. No host or user name."""
    import torch

    packages = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    return {
        "schema": 1,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": gpu_names(),
        "git": vars(current_git()),
        "command": sys.argv,
        "packages": dict(sorted(packages.items())),
    }


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace")
    return done.stdout.strip()
