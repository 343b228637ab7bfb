"""What this machine gives us."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Cores that this process may keep busy: in a container fewer than the machine's.

    The processors it may run on, and no more than its CPU quota (`docker run --cpus`, a Kubernetes limit, a systemd
    slice): threads beyond it are stopped for the rest of each tenth of a second, and the others wait for them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([float(cores), *cpu_quotas()])))


def cpu_quotas(own_groups: Path = OWN_GROUPS, groups: Path = GROUPS) -> Iterator[float]:
    """The quotas, in cores, of this process's control groups and of those above them; the smallest holds.

    Version 2 has one tree and a file `cpu.max`, version 1 a tree for the CPU and two files. A container sees its own
    group as the root of the tree, under a path that is not there then (man 7 cgroups).
    """
    try:
        lines = own_groups.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return  # not Linux
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        trees = [groups / controllers, groups / "cpu"] if controllers else [groups, groups / "unified"]
        for tree in trees:
            group = tree / name.lstrip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(tree):
                    yield from _quota_of(folder)


def _quota_of(folder: Path) -> Iterator[float]:
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
        except (OSError, ValueError):
            return
    if quota.strip().lstrip("-").isdecimal() and int(quota) > 0 and int(period) > 0:  # "max" and -1: no quota
        yield int(quota) / int(period)
