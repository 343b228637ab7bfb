"""GPUs: how many, which, whose memory is in use, and whether driver and torch go together."""

from __future__ import annotations

import os
from dataclasses import dataclass

from taehv.config.precision import PRECISIONS
from taehv.config.profiles import Profile
from taehv.doctor.check import Check, listed, size
from taehv.doctor.context import RunContext
from taehv.launch import processes
from taehv.runtime.errors import ConfigError

IN_USE_FRACTION = 0.1
"""Memory of a GPU that may be in use before training starts; an idle one has a few hundred MB for the driver."""
BF16_CAPABILITY = (8, 0)
"""The first compute capability (Ampere) with bfloat16 matrix products in hardware."""
COMPUTE_MODES = {0: "default", 1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}
PROHIBITED = 2
PINNED_TORCH = "install the torch of requirements.lock: make setup"


@dataclass(frozen=True)
class Gpu:
    """A visible GPU as its driver describes it."""

    index: int
    name: str
    total_bytes: int
    used_bytes: int
    other_processes: tuple[int, ...]
    """Process ids that compute on it, this process aside."""
    compute_mode: int
    capability: tuple[int, int]


def check_gpus(context: RunContext) -> list[Check]:
    """All about the profile's GPUs; one line where it needs none."""
    profile = context.profile
    if profile.gpus == 0:
        return [Check("GPUs", "pass", f"none needed by profile {profile.name}")]
    try:
        processes.require_gpus(profile)
    except ConfigError as error:
        advice = "run on the machine that the profile describes, or choose the profile of this one"
        found = [Check("GPUs", "fail", str(error.problems[0]), advice)]
        return [*found, *_check_driver()]
    return [*_check_driver(), *judge_gpus(profile, context.params.active.precision)]


def judge_gpus(profile: Profile, precision: str) -> list[Check]:
    """GPUs that torch has; a driver that does not describe them does not keep torch from training."""
    import pynvml

    try:
        gpus = read_gpus()
    except pynvml.NVMLError as error:
        said = f"the driver does not tell ({error}); with MIG or vGPU that is so"
        return [Check("GPU memory", "warn", said, "see with nvidia-smi that they are idle and may be used")]
    return [
        Check("GPUs", "pass", f"{len(gpus)} x {gpus[0].name}, {size(gpus[0].total_bytes)} each"),
        judge_memory(gpus),
        judge_compute_mode(gpus),
        *judge_precision(gpus, precision),
        *judge_count(gpus, profile),
    ]


def judge_count(gpus: list[Gpu], profile: Profile) -> list[Check]:
    """More GPUs than the profile uses: it takes the first ones."""
    if len(gpus) == profile.gpus:
        return []
    advice = f"set CUDA_VISIBLE_DEVICES to the {profile.gpus} that are meant, or use a profile for all of them"
    return [Check("GPU count", "warn", f"{len(gpus)} visible, the profile uses the first {profile.gpus}", advice)]


def judge_memory(gpus: list[Gpu]) -> Check:
    """Memory that someone else holds."""
    busy = [gpu for gpu in gpus if gpu.used_bytes > IN_USE_FRACTION * gpu.total_bytes]
    if not busy:
        free = min(gpu.total_bytes - gpu.used_bytes for gpu in gpus)
        return Check("GPU memory", "pass", f"at least {size(free)} free on each")
    shown = [
        f"GPU {gpu.index}: {size(gpu.used_bytes)} of {size(gpu.total_bytes)} in use"
        + (f" (process {', '.join(map(str, gpu.other_processes))})" if gpu.other_processes else "")
        for gpu in busy
    ]
    return Check("GPU memory", "warn", listed(shown), "wait for these processes or end them (nvidia-smi shows them)")


def judge_compute_mode(gpus: list[Gpu]) -> Check:
    """Whether processes may compute there at all."""
    prohibited = [str(gpu.index) for gpu in gpus if gpu.compute_mode == PROHIBITED]
    if prohibited:
        return Check(
            "compute mode",
            "fail",
            f"GPU {', '.join(prohibited)} is in mode prohibited: no process may use it",
            "an administrator sets it back: nvidia-smi -c DEFAULT",
        )
    modes = sorted({COMPUTE_MODES.get(gpu.compute_mode, str(gpu.compute_mode)) for gpu in gpus})
    return Check("compute mode", "pass", ", ".join(modes))


def judge_precision(gpus: list[Gpu], precision: str) -> list[Check]:
    """bfloat16 in hardware, where the scale asks for it."""
    if PRECISIONS[precision].autocast != "bf16":
        return []
    without = [f"GPU {gpu.index} ({gpu.name})" for gpu in gpus if gpu.capability < BF16_CAPABILITY]
    if without:
        advice = "use GPUs of compute capability 8.0 or later, or set the scale's precision to fp32"
        return [Check("precision", "fail", f"no bf16 in hardware: {listed(without)}", advice)]
    return [Check("precision", "pass", "bf16 in hardware")]


def judge_driver(driver: str, driver_cuda: tuple[int, int], torch_cuda: tuple[int, int]) -> Check:
    """A driver runs any CUDA of its own major version, and older ones (CUDA compatibility guide, minor versions)."""
    shown = f"driver {driver} for CUDA {_dotted(driver_cuda)}, torch built for CUDA {_dotted(torch_cuda)}"
    if driver_cuda[0] < torch_cuda[0]:
        return Check("driver", "fail", shown, f"update the driver to one for CUDA {torch_cuda[0]}.0 or later")
    if driver_cuda < torch_cuda:
        advice = "it works by minor version compatibility; update the driver if kernels fail to load"
        return Check("driver", "warn", shown, advice)
    return Check("driver", "pass", shown)


def _check_driver() -> list[Check]:
    import pynvml
    import torch

    if torch.version.cuda is None:
        return [Check("driver", "fail", f"torch {torch.__version__} is built without CUDA", PINNED_TORCH)]
    try:
        pynvml.nvmlInit()
        cuda = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())  # 13010 is 13.1
        driver = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError as error:
        advice = "install the driver; in a container, start it with the GPUs (docker run --gpus all)"
        return [Check("driver", "fail", f"no NVIDIA driver answers ({error})", advice)]
    major, minor = (int(part) for part in torch.version.cuda.split(".")[:2])
    return [judge_driver(str(driver), (cuda // 1000, cuda % 1000 // 10), (major, minor))]


def read_gpus() -> list[Gpu]:
    """The visible GPUs, in torch's order. No CUDA context is made: it would hold memory for as long as we run."""
    import pynvml
    import torch

    pynvml.nvmlInit()
    return [_read_gpu(index, torch.cuda.get_device_properties(index)) for index in range(torch.cuda.device_count())]


def _read_gpu(index: int, properties: object) -> Gpu:
    import pynvml

    # CUDA_VISIBLE_DEVICES renumbers torch's devices, not the driver's: only the UUID is common to both.
    handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")  # type: ignore[attr-defined]
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    running = [process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    return Gpu(
        index=index,
        name=str(properties.name),  # type: ignore[attr-defined]
        total_bytes=int(memory.total),
        used_bytes=int(memory.used),
        other_processes=tuple(pid for pid in running if pid != os.getpid()),
        compute_mode=int(pynvml.nvmlDeviceGetComputeMode(handle)),
        capability=(int(properties.major), int(properties.minor)),  # type: ignore[attr-defined]
    )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
