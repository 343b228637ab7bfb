"""The processes of the profile find each other: really started, one number summed over all of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from taehv.doctor.check import Check
from taehv.doctor.context import RunContext
from taehv.runtime.launched import without_inherited

TIMEOUT_S = 60.0
POLL_S = 0.05
WORKER = (sys.executable, "-m", "taehv.doctor.process_group_worker")
ADVICE = {
    "gloo": "check that localhost and this host's name resolve to this machine, and GLOO_SOCKET_IFNAME; "
    "`GLOO_LOG_LEVEL=DEBUG taehv doctor` says more",
    "nccl": "run `NCCL_DEBUG=INFO taehv doctor`; common causes: a small /dev/shm, a GPU in use or in error "
    "(nvidia-smi), a wrong NCCL_SOCKET_IFNAME, or peer access (try NCCL_P2P_DISABLE=1)",
}


def check_process_group(context: RunContext) -> list[Check]:
    """Start the profile's number of processes; none where training runs in one, or where a stage starts them anyway."""
    profile = context.profile
    if profile.processes == 1:
        return [Check("process group", "pass", "one process: nothing to connect")]
    if context.at_start_of_stage:
        return []
    backend = "nccl" if profile.gpus else "gloo"
    if torch.cuda.device_count() < profile.gpus:
        found = f"not tried: {torch.cuda.device_count()} of {profile.gpus} GPUs are visible"
        return [Check("process group", "warn", found, "fix the GPUs first")]
    return [try_process_group(profile.processes, backend)]


def try_process_group(
    processes: int, backend: str, timeout_s: float = TIMEOUT_S, worker: Sequence[str] = WORKER
) -> Check:
    """Start ``processes`` workers and wait for them, no longer than ``timeout_s``; none is left behind."""
    name, started = f"{backend} group", time.monotonic()
    workers: list[_Worker] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            port = _free_port()
            for rank in range(processes):
                workers.append(_start(rank, processes, port, [*worker, backend, str(timeout_s)], Path(folder)))
            waiting = _wait(workers, started + timeout_s)
            failed = [one for one in workers if one.process.poll() not in (None, 0)]
            if failed:
                said = f"process {failed[0].rank} of {processes} failed: {_last_line(failed[0].stderr)}"
                return Check(name, "fail", said, ADVICE[backend])
            if waiting:
                ranks = ", ".join(str(one.rank) for one in waiting)
                said = f"no answer within {timeout_s:g} s from process {ranks} of {processes}"
                return Check(name, "fail", said, ADVICE[backend])
            latency = _last_line(workers[0].stdout)
        finally:
            for one in workers:
                one.end()
    seconds = time.monotonic() - started
    return Check(name, "pass", f"{processes} processes, all-reduce in {latency} ms (start to end {seconds:.1f} s)")


@dataclass(frozen=True)
class _Worker:
    rank: int
    process: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path

    def end(self) -> None:
        """Gone when this returns: SIGKILL also ends a stopped process."""
        self.process.kill()
        self.process.wait()


def _start(rank: int, processes: int, port: int, command: Sequence[str], folder: Path) -> _Worker:
    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    environment = {
        **without_inherited(os.environ),
        "OMP_NUM_THREADS": "1",
        **{key: str(value) for key, value in group.items()},
    }
    out, err = folder / f"{rank}.out", folder / f"{rank}.err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        return _Worker(rank, subprocess.Popen(command, env=environment, stdout=stdout, stderr=stderr), out, err)


def _wait(workers: Sequence[_Worker], deadline: float) -> list[_Worker]:
    """Until all have ended, one has failed, or time is up; returns those that still run."""
    while True:
        running = [worker for worker in workers if worker.process.poll() is None]
        failed = any(worker.process.returncode for worker in workers if worker not in running)
        if not running or failed or time.monotonic() > deadline:
            return running
        time.sleep(POLL_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def _last_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"
