"""What the operating system lets training use: shared memory, open files, memory, cores."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import psutil

from taehv.data.clip_shards import MOST_OPEN
from taehv.data.splits import SplitName
from taehv.data.store_files import StoreError
from taehv.doctor.check import Check, size
from taehv.doctor.context import RunContext
from taehv.runtime.machine import available_cores

SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_BYTES = 10**9
"""NVIDIA's advice for NCCL in containers is --shm-size=1g; Docker's own default is 64 MB."""
OTHER_OPEN_FILES = 256
"""Libraries, sockets, logs and checkpoints of a process; about 100 were seen."""
MEMORY_BYTES_PER_PROCESS = 2 * 10**9
"""torch with its libraries, a model and a micro-batch on the CPU; clips are mapped, not held."""
MAX_MAPS = Path("/proc/sys/vm/max_map_count")


def check_machine_limits(context: RunContext) -> list[Check]:
    """Limits that a run may hit hours after its start."""
    processes = context.profile.processes
    shards = _shards(context)
    return [
        *_check_shared_memory(processes),
        check_open_files(shards),
        *_check_mappings(shards),
        _check_memory(processes),
        check_threads(processes, context.profile.threads, available_cores()),
    ]


def _shards(context: RunContext) -> int:
    """Files of the clip store that training keeps mapped, each with an open file; 0 before it is there."""
    try:
        files = None if context.dataset is None else context.dataset.files
    except StoreError:
        return 0
    used: tuple[SplitName, ...] = ("train", "val")
    return 0 if files is None else sum(min(len(files.of_split(split)), MOST_OPEN) for split in used)


def _check_shared_memory(processes: int) -> list[Check]:
    if processes == 1 or not SHARED_MEMORY.is_dir():
        return []
    free = shutil.disk_usage(SHARED_MEMORY).free
    detail = f"{SHARED_MEMORY}: {size(free)} free for {processes} processes"
    if free < SHARED_MEMORY_BYTES:
        return [Check("shared memory", "warn", detail, "in a container, start it with --shm-size=1g or more")]
    return [Check("shared memory", "pass", detail)]


def check_open_files(shards: int) -> Check:
    """Each process maps the shards as it meets them, so a low limit shows up late."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = shards + OTHER_OPEN_FILES
    if soft == resource.RLIM_INFINITY:
        return Check("open files", "pass", "no limit")
    detail = f"limit {soft:,}, about {needed:,} needed ({shards:,} shards of clips)"
    if soft < needed:
        higher = "" if hard == resource.RLIM_INFINITY or hard >= needed else " (an administrator raises the hard limit)"
        return Check("open files", "fail", detail, f"ulimit -n {needed * 2} before the start{higher}")
    return Check("open files", "pass", detail)


def _check_mappings(shards: int) -> list[Check]:
    if not MAX_MAPS.is_file():
        return []
    limit = int(MAX_MAPS.read_text(encoding="utf-8"))
    if shards * 2 < limit:
        return []
    advice = f"an administrator sets: sysctl vm.max_map_count={shards * 4}"
    return [Check("mapped files", "fail", f"limit {limit:,} for {shards:,} shards of clips and libraries", advice)]


def _check_memory(processes: int) -> Check:
    available = psutil.virtual_memory().available
    detail = f"{size(available)} available for {processes} process{'es' if processes > 1 else ''}"
    if available < processes * MEMORY_BYTES_PER_PROCESS:
        advice = f"end other programs; a process needs about {size(MEMORY_BYTES_PER_PROCESS)}"
        return Check("memory", "warn", detail, advice)
    return Check("memory", "pass", detail)


def check_threads(processes: int, threads: int | None, cores: int) -> Check:
    """More threads than cores wait for each other."""
    each = threads or max(1, cores // processes)
    shown = (
        f"{processes} process{'es' if processes > 1 else ''} x {each} thread{'s' if each > 1 else ''} on {cores} cores"
    )
    if processes * each > cores:
        advice = "lower processes or threads in the profile: threads that wait for a core slow all others down"
        return Check("CPU threads", "warn", shown, advice)
    spin = os.environ.get("GOMP_SPINCOUNT")
    if spin is not None and (not spin.isdecimal() or int(spin) > 100_000):
        advice = "unset it: the stages choose a value with which a busy neighbour costs little (benchmarks/RESULTS.md)"
        return Check("CPU threads", "warn", f"{shown}; GOMP_SPINCOUNT={spin} makes waiting threads spin long", advice)
    return Check("CPU threads", "pass", shown)
