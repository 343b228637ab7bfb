"""One process of the group: joins the group, sums a number over it, and says how long that took.

Started by ``process_group`` with torchrun's environment variables. The first process prints the mean latency of an
all-reduce, in milliseconds.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

REPETITIONS = 20


def main(backend: str, timeout_s: float) -> int:
    """Exit code 0 where the sum over all processes is right."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    total = torch.tensor([float(rank + 1)], device=device)
    dist.all_reduce(total)  # the first one also opens the connections
    value = torch.zeros(1, device=device)
    started = time.perf_counter()
    for _ in range(REPETITIONS):
        dist.all_reduce(value)
    value.item()  # NCCL only queues; reading waits for it
    latency_ms = (time.perf_counter() - started) / REPETITIONS * 1000
    right = total.item() == world * (world + 1) / 2
    if rank == 0:
        print(f"{latency_ms:.3f}")
    dist.destroy_process_group()
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
