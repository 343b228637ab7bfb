"""Speed of one training step: the plain formulation against the step as built, and what each loss term adds.

    make bench-train-step                     # this machine's CPU at 64x64x12, GPU sizes where there is a GPU
    python benchmarks/train_step.py --threads 1 --steps 30     # where only the packages below are

Needs torch, numpy, accelerate, pydantic and pyyaml (and pytorch-msssim for the perceptual term; without it that row
says so). Clips are random and the teacher is left out: its latents are random too. Formulations take turns, step by
step, in one process; the median counts. FLOPs are those of the plain formulation, so that doing fewer shows as more
FLOP/s; the ceiling is the rate of a square matrix product, measured here. Prints rows of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from unittest import mock

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as stages/entry.py does

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

import torch  # noqa: E402
import yaml  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks.memory import peak_resident_bytes  # noqa: E402
from taehv.config.params import Params, parse_params  # noqa: E402
from taehv.losses.objective import Objective, weighted_sum  # noqa: E402
from taehv.model import formulations, fused_training  # noqa: E402
from taehv.model.init import create_model  # noqa: E402
from taehv.model.variants import VARIANTS  # noqa: E402
from taehv.runtime.machine import available_cores  # noqa: E402
from taehv.training.adversary import Adversary  # noqa: E402
from taehv.training.state import TrainingState  # noqa: E402
from taehv.training.train_step import DTYPES, TrainStep  # noqa: E402

Formulation = Literal["plain", "as built"]
TERMS = ("recon", "encoder", "decoder", "perceptual", "seraena")
AVAILABLE = tuple(t for t in TERMS if t != "perceptual" or importlib.util.find_spec("pytorch_msssim") is not None)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is measured: a scale of params.yaml at some size, with some loss terms."""

    scale: str
    height: int
    width: int
    batch: int
    precision: str
    terms: tuple[str, ...]

    def params(self) -> Params:
        raw: dict[str, Any] = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
        raw["scale"] = self.scale
        raw["loss"] = {term: weight if term in self.terms else 0.0 for term, weight in raw["loss"].items()}
        raw["gate"]["step"] = raw["scales"][self.scale]["validation"]["every"]
        sizes = {"height": self.height, "width": self.width, "canvas_height": self.height, "canvas_width": self.width}
        scale = raw["scales"][self.scale]
        scale["data"] |= sizes
        scale["batch"]["global"] = self.batch
        scale["precision"] = self.precision
        scale["seraena"] |= {"start_step": 1, "ramp_steps": 0}
        return parse_params(raw)

    def __str__(self) -> str:
        return (
            f"{self.scale} {self.height}x{self.width}x12, batch {self.batch}, {self.precision}, {'+'.join(self.terms)}"
        )


class RandomClips:
    """Stands for the loader: always the same random clips, already on the device."""

    def __init__(self, setting: Setting, device: torch.device) -> None:
        self.slots = range(setting.batch)
        size = (setting.batch, 12, 3, setting.height, setting.width)
        self._frames = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        self._frames = self._frames.to(device)

    def frames(self, step: int) -> Tensor:
        return self._frames


class RandomTeacher:
    """Stands for the teacher: random latents of the right shape."""

    def __init__(self, latents_ntchw: Tensor) -> None:
        self._latents = latents_ntchw

    def encode(self, frames_ntchw: Tensor) -> Tensor:
        return self._latents


@contextlib.contextmanager
def formulated(formulation: Formulation) -> Iterator[None]:
    """Inside, the objective runs the model in this formulation."""
    if formulation == "as built":
        yield
        return
    plain = formulations.Training("volumes", compiled=False, ssim="library", discriminator="as defined")
    with (
        mock.patch.dict(formulations.TRAINING, dict.fromkeys((*formulations.TRAINING, "meta"), plain)),
        mock.patch.object(fused_training, "encode", lambda model, frames: model.encode(frames)),
        mock.patch.object(fused_training, "decode", lambda model, latents: model.decode(latents)),
    ):
        yield


def build(setting: Setting, device: torch.device) -> Callable[[int], object]:
    """The training step of a fresh model."""
    params = setting.params()
    scale = params.active
    variant, dtype = VARIANTS[scale.model.variant], DTYPES[scale.precision]
    # accelerate keeps the precision of a process's first Accelerator, and refuses another one.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if scale.precision == "bf16" else "no")
    student = create_model(variant, scale.model.width, scale.model.init, seed=0).to(device, dtype)
    objective = Objective(student, params.loss, scale)
    adversary = None
    if objective.needs_adversary:
        slots = range(setting.batch)
        adversary = Adversary(
            scale.seraena, variant, seed=0, slots=slots, global_batch=setting.batch, device=device, dtype=dtype
        )
    downscale = variant.spatial_downscale
    size = (variant.latent_frames(12), variant.latent_channels, setting.height // downscale, setting.width // downscale)
    teacher: Any = RandomTeacher(torch.randn(setting.batch, *size, device=device, dtype=dtype))
    loader: Any = RandomClips(setting, device)
    state = TrainingState(student, scale.optim, adversary)
    needed = teacher if objective.needs_teacher else None
    return TrainStep(
        accelerator, objective, state, needed, loader, global_batch=setting.batch, per_device=setting.batch, dtype=dtype
    )


def seconds(call: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    started = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def product_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of the best of a few square matrix products in the dtype that the products of a step have."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    n = 8192 if device.type == "cuda" else 1536
    a = torch.randn(n, n, device=device, dtype=dtype)
    return 2 * n**3 / min(seconds(lambda: a @ a, device) for _ in range(8))


def plain_flops(setting: Setting) -> int:
    """FLOPs of one step of student passes in the plain formulation, forward and backward, counted on shapes alone."""
    params = setting.params()
    scale = params.active
    variant = VARIANTS[scale.model.variant]
    weights = params.loss.model_copy(update={"perceptual": 0.0, "seraena": 0.0})
    with torch.device("meta"), formulated("plain"), FlopCounterMode(display=False) as counter:
        student = create_model(variant, scale.model.width, "torch_default", seed=0)
        objective = Objective(student, weights, scale)
        frames = torch.empty(setting.batch, 12, 3, setting.height, setting.width)
        outputs = objective(frames, student.encode(frames).detach() if objective.needs_teacher else None)
        weighted_sum(outputs.terms, objective.weights_at(1)).backward()
        total = counter.get_total_flops()
    if objective.needs_teacher:
        with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
            student.encode(frames)
            total -= counter.get_total_flops()
    return total


def compare(setting: Setting, device: torch.device, steps: int, ceiling: float) -> None:
    """Print one row per formulation."""
    formulations: tuple[Formulation, ...] = ("plain", "as built")
    taken: dict[Formulation, list[float]] = {formulation: [] for formulation in formulations}
    built = {formulation: build(setting, device) for formulation in formulations}
    for step in range(1, steps + 4):
        for formulation in formulations:
            with formulated(formulation):
                taken[formulation].append(seconds(functools.partial(built[formulation], step), device))
    flops = plain_flops(setting)
    for formulation in formulations:
        step_seconds = median(taken[formulation][3:])
        rate = flops / step_seconds
        ratio = median(taken["plain"][3:]) / step_seconds
        numbers = f"{setting.batch / step_seconds:.2f} | {rate / 1e12:.3f} | {rate / ceiling:.0%} | {ratio:.2f}"
        print(f"| {setting} | {formulation} | {numbers} | {peak_memory(setting, formulation, device)} |", flush=True)


def peak_memory(setting: Setting, formulation: Formulation, device: torch.device) -> str:
    """Of three steps in a process of their own (CPU: what its resident memory grew by; GPU: what torch allocated)."""
    fields = [setting.scale, setting.height, setting.width, setting.batch, setting.precision, ",".join(setting.terms)]
    arguments = [*map(str, fields), formulation, device.type]
    command = [sys.executable, __file__, "--memory-of", *arguments, "--threads", str(torch.get_num_threads())]
    finished = subprocess.run(command, capture_output=True, text=True)
    return finished.stdout.strip() if finished.returncode == 0 else "out of memory or failed"


def print_memory(arguments: list[str]) -> None:
    scale, height, width, batch, precision, terms, formulation, device_name = arguments
    setting = Setting(scale, int(height), int(width), int(batch), precision, tuple(terms.split(",")))
    device = torch.device(device_name)
    before = peak_resident_bytes()
    step = build(setting, device)
    with formulated("plain" if formulation == "plain" else "as built"):
        for number in range(1, 4):
            step(number)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_resident_bytes() - before
    print(f"{peak / 2**30:.2f} GiB")


def settings(device: torch.device) -> Iterator[Setting]:
    if device.type == "cpu":
        yield from (Setting("embedded", 64, 64, 4, "fp32", AVAILABLE[:count]) for count in range(1, len(AVAILABLE) + 1))
        return
    for height, width in ((256, 256), (480, 720)):
        for precision in ("bf16", "fp32"):
            for batch in (1, 2, 4):
                yield Setting("full", height, width, batch, precision, AVAILABLE)
    yield from (Setting("full", 480, 720, 2, "bf16", AVAILABLE[:count]) for count in range(1, len(AVAILABLE)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=available_cores(), help="CPU threads (default: all)")
    parser.add_argument("--steps", type=int, default=15, help="measured steps of each formulation (default: 15)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory-of", nargs=8, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print_memory(options.memory_of)
        return
    device = torch.device(options.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {options.threads} thread(s)"
    ceilings = {precision: product_rate(device, precision) for precision in ("fp32", "bf16")}
    shown = ", ".join(f"{rate / 1e12:.3f} TFLOP/s in {precision}" for precision, rate in ceilings.items())
    print(f"{name}, torch {torch.__version__}; matrix product: {shown}")
    if "perceptual" not in AVAILABLE:
        print("perceptual is not measured: pytorch-msssim is not installed")
    print("| setting | formulation | clips/s | TFLOP/s | of matrix product | times plain | peak memory |")
    print("|---|---|---|---|---|---|---|")
    for setting in settings(device):
        compare(setting, device, options.steps, ceilings[setting.precision])


if __name__ == "__main__":
    main()
