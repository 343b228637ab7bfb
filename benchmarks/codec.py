"""Encode and decode, plain against folded: same weights, same machine, same run.

    make bench-codec                                               # CPU: all tables; ARGS="--threads 2"
    python benchmarks/codec.py --device cuda                       # GPU: 512x320 and 720x480, fp16 and bf16
    python benchmarks/codec.py --rehearse                          # the GPU's tables on the CPU, tiny: does it run?

Every comparison is warmed up and interleaved (plain, folded, plain, folded, ...); shown is the median. "By FLOPs" is
what the counted operations alone would give; saved copies and faster layouts come on top.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs without being installed

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory import peak_resident_bytes
from taehv.model.autoencoder import VideoAutoencoder
from taehv.model.formulations import RECIPES
from taehv.model.fused_inference import FoldedTAEHV
from taehv.model.init import create_model
from taehv.model.taehv import TAEHV
from taehv.model.variants import VARIANTS

GPU_SIZES = ((320, 512), (480, 720))
Work = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="hunyuan_video", choices=list(VARIANTS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--height", type=int, default=320, help="CPU only (default: %(default)s)")
    parser.add_argument("--width", type=int, default=512, help="CPU only (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=33, help="default: %(default)s")
    parser.add_argument("--chunk", type=int, default=2, help="latents at a time in chunked runs (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5, help="median of this many (default: %(default)s)")
    memory = parser.add_mutually_exclusive_group()
    memory.add_argument("--no-memory", action="store_true", help="leave out the memory of chunked decoding")
    memory.add_argument("--memory", action="store_true", help="only that")
    parser.add_argument("--rehearse", action="store_true", help="run the GPU's tables on the CPU at a tiny size")
    parser.add_argument("--memory-frames", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_frames is not None:
        decode_chunks_of_random_latents(options)
        print(peak_resident_bytes() / 2**20)
    elif options.memory:
        print_memory()
    elif options.rehearse:
        gpu_tables(options, "cpu", ((32, 48),))
    elif options.device == "cuda":
        gpu_tables(options, "cuda", GPU_SIZES)
    else:
        cpu_tables(options)


def cpu_tables(options: argparse.Namespace) -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.variant}, float32")
    print(f"measured copy: {copy_rate('cpu') / 1e9:.1f} GB/s (read + write)")
    plain = create_model(VARIANTS[options.variant], 1.0, "torch_default", seed=0).eval()
    models: dict[str, VideoAutoencoder] = {"plain": plain, **folded_models(plain)}
    frames, latents = example(plain, options.frames, options.height, options.width)
    for name, given, chunk in (
        ("decode", latents, options.chunk),
        ("encode", frames, options.chunk * plain.variant.t_downscale),
    ):
        calls = {label: partial(getattr(model, name), given) for label, model in models.items()}
        calls["folded, chunked"] = partial(getattr(models["folded"], name), given, chunk=chunk)
        counted = {label: flops(model, given, name) for label, model in models.items()}
        counted["folded, chunked"] = counted["folded"]
        print_table(name, frames, calls, counted, options.runs)
    if not options.no_memory:
        print_memory()


def gpu_tables(options: argparse.Namespace, device: str, sizes: Sequence[tuple[int, int]]) -> None:
    name = torch.cuda.get_device_name() if device == "cuda" else "a rehearsal on the CPU"
    print(f"torch {torch.__version__}, {name}, {options.variant}")
    for dtype in (torch.float16, torch.bfloat16):
        print(f"\n{dtype}, measured copy: {copy_rate(device) / 1e9:.0f} GB/s (read + write)")
        plain = create_model(VARIANTS[options.variant], 1.0, "torch_default", seed=0).eval().to(device, dtype)
        models: dict[str, VideoAutoencoder] = {"plain": plain, **folded_models(plain)}
        for height, width in sizes:
            frames, latents = example(plain, options.frames, height, width)
            calls: dict[str, Work] = {label: partial(model.decode, latents) for label, model in models.items()}
            counted = {label: flops(model, latents, "decode") for label, model in models.items()}
            for label in list(models):
                calls[f"{label}, compiled"] = torch.compile(calls[label])
                counted[f"{label}, compiled"] = counted[label]
            print_table("decode", frames, calls, counted, options.runs)


def folded_models(plain: TAEHV) -> dict[str, VideoAutoencoder]:
    """As the device's recipe says, and as the other device's recipe would have it."""
    device = next(plain.parameters()).device.type
    (other,) = RECIPES.keys() - {device}
    return {"folded": FoldedTAEHV(plain), f"folded as on {other}": FoldedTAEHV(plain, RECIPES[other])}


def example(model: VideoAutoencoder, frames: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    weight, variant = next(model.parameters()), model.variant
    height, width = (size // variant.spatial_downscale * variant.spatial_downscale for size in (height, width))
    video = torch.rand(1, frames, 3, height, width).to(weight)
    shape = (1, variant.latent_frames(frames), variant.latent_channels)
    return video, torch.randn(*shape, height // variant.spatial_downscale, width // variant.spatial_downscale).to(
        weight
    )


@torch.inference_mode()
def measure(work: Mapping[str, Work], runs: int) -> dict[str, float]:
    """Median seconds of each, interleaved, after one run of each."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for run in range(runs + 1):
        for name, way in work.items():
            synchronize()
            started = time.perf_counter()
            way()
            synchronize()
            if run > 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


@torch.inference_mode()
def print_table(name: str, frames: Tensor, calls: Mapping[str, Work], counted: Mapping[str, int], runs: int) -> None:
    """One row per way, compared with "plain", and with matrix products of the same minutes."""
    length, (height, width) = frames.shape[1], frames.shape[-2:]
    products, operations = matrix_products(frames.device.type, frames.dtype)
    seconds = measure({**products, **calls}, runs)
    rates = {label: operations / seconds.pop(label) for label in products}
    peak = max(rates.values())
    print(
        f"\n{length} frames of {width}x{height}, median of {runs}; matrix product: "
        + ", ".join(f"{rate / 1e9:,.0f} GFLOP/s {label}" for label, rate in rates.items())
        + "\n"
    )
    print(f"| {name} | frames/s | x plain | x plain by FLOPs | GFLOP | of matrix product | max error |")
    print("|---|---|---|---|---|---|---|")
    reference = calls["plain"]()
    for label, taken in seconds.items():
        error = (calls[label]().float() - reference.float()).abs().max().item()
        print(
            f"| {label} | {length / taken:.2f} | {seconds['plain'] / taken:.2f} "
            f"| {counted['plain'] / counted[label]:.2f} | {counted[label] / 1e9:.0f} "
            f"| {counted[label] / taken / peak:.0%} | {error:.0e} |",
            flush=True,
        )


def flops(model: VideoAutoencoder, given: Tensor, call: str) -> int:
    """Operations of one call, counted on shapes alone."""
    counter = FlopCounterMode(display=False)
    shapes_only = copy.deepcopy(model).to("meta")
    with counter, torch.no_grad():
        getattr(shapes_only, call)(given.to("meta"))
    return counter.get_total_flops()


def matrix_products(device: str, dtype: torch.dtype) -> tuple[dict[str, Work], int]:
    """A large matrix product by the BLAS and by the convolution library, and its operations."""
    size = 8192 if device == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    pointwise = nn.Conv2d(size, size, 1, bias=False, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    image = left.T.reshape(1, size, -1, 32).to(memory_format=torch.channels_last)
    return {"by BLAS": lambda: left @ right, "by convolution": lambda: pointwise(image)}, 2 * size**3


def copy_rate(device: str) -> float:
    """Bytes/s read and written by copying a large tensor."""
    source = torch.empty(2**28 if device == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / measure({"copy": lambda: target.copy_(source)}, runs=5)["copy"]


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def decode_chunks_of_random_latents(options: argparse.Namespace) -> None:
    model = FoldedTAEHV(create_model(VARIANTS[options.variant], 1.0, "torch_default", seed=0))
    _, latents = example(model, 1, options.height, options.width)
    count = model.variant.latent_frames(options.memory_frames)
    for _ in model.decode_chunks(latents.expand(-1, count, -1, -1, -1), options.chunk):
        pass


def print_memory() -> None:
    """Peak memory of whole processes that decode in chunks."""
    peaks = {}
    for frames in (61, 600):
        command = [sys.executable, *sys.argv, "--memory-frames", str(frames)]
        peaks[frames] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"\nchunked decode, peak memory of the process: {peaks[61]:.0f} MiB for 61 frames, {peaks[600]:.0f} for 600")
    print(f"ratio {peaks[600] / peaks[61]:.2f}")


if __name__ == "__main__":
    main()
