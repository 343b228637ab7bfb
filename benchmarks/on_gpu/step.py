"""Speed of a whole training step, 12 frames of 480x720 in bf16, random clips and teacher latents, full width."""

from __future__ import annotations

import time
import warnings
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.on_gpu.correctness import formulated
from benchmarks.on_gpu.session import Session
from benchmarks.train_step import Setting, build
from taehv.training.build import set_up_gpu

TERMS = {
    "recon": ("recon",),
    "recon + encoder + decoder": ("recon", "encoder", "decoder"),
    "all but seraena": ("recon", "encoder", "decoder", "perceptual"),
    "all five": ("recon", "encoder", "decoder", "perceptual", "seraena"),
}
CASES = (
    ("recon", "compiled", True), ("recon + encoder + decoder", "compiled", True), ("all five", "compiled", True),
    ("all but seraena", "compiled", True), ("recon", "planes", True), ("all five", "planes", True),
    ("recon", "plain", True), ("all five", "compiled", False),
)  # fmt: skip
"""Terms, formulation (``correctness.formulated``), and whether equal runs have to be equal (deterministic cuDNN)."""


def run(session: Session) -> None:
    if not session.rehearsal:
        session.case("ceilings", partial(ceilings, session))
    for terms, how, deterministic in CASES:
        if session.rehearsal and how == "compiled":
            continue
        name = f"{terms}, {how}{'' if deterministic else ', nondeterministic'}"
        session.case(name, partial(measure, session, terms, how, deterministic))
    if not session.rehearsal:
        session.case("where the time goes", partial(kernels, session))


def ceilings(session: Session) -> dict[str, Any]:
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    x = torch.empty(2**31, device="cuda", dtype=torch.uint8).random_()
    y = torch.empty_like(x)
    return {
        "matrix product TFLOP/s": 2 * 8192**3 / session.milliseconds(lambda: a @ a) / 1e9,
        "copy TB/s": 2 * 2**31 / session.milliseconds(lambda: y.copy_(x)) / 1e9,
    }


def measure(session: Session, terms: str, how: str, deterministic: bool) -> dict[str, Any]:
    set_up_gpu()
    torch.backends.cudnn.deterministic = deterministic
    if session.rehearsal:
        setting = Setting("embedded", 32, 32, 1, "fp32", TERMS[terms])
    else:
        setting = Setting("full", 480, 720, 4, "bf16", TERMS[terms])
    with formulated(session.device, how):
        step = build(setting, session.device)
        begun = time.monotonic()
        for number in (1, 2):
            step(number)
        ready = time.monotonic() - begun
        taken = session.milliseconds(partial(step, 3), times=12)
        peak = session.peak_gb(partial(step, 4))
        waits = host_waits(session, partial(step, 5))
    return {"clips/s": setting.batch / taken * 1e3, "ms": taken, "peak GB": peak, "waits": waits, "ready s": ready}


def kernels(session: Session) -> dict[str, Any]:
    """The kernels of two steps of all five terms, by their time on the GPU."""
    set_up_gpu()
    step = build(Setting("full", 480, 720, 4, "bf16", TERMS["all five"]), session.device)
    step(1)
    step(2)
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        step(3)
        step(4)
        torch.cuda.synchronize()
    rows = sorted(found.key_averages(), key=lambda row: -row.self_device_time_total)
    for row in rows[:45]:
        session.say(f"{row.self_device_time_total / 2e3:8.2f} ms {row.count / 2:6.1f} x {row.key[:150]}")
    return {"ms on the GPU": sum(row.self_device_time_total for row in rows) / 2e3}


def host_waits(session: Session, work: Any) -> int:
    """How often the processor waits for the GPU."""
    if session.rehearsal:
        return 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)
