"""Profiles: what a machine is, and what changes only speed and memory there. Nothing here changes a result."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from taehv.config.params import STAGE_KEYS
from taehv.config.strict_config import Bounds, Reading, read
from taehv.runtime import paths
from taehv.runtime.errors import ConfigError, Problem
from taehv.runtime.yaml_files import YamlFileError, read_yaml

PROFILES_FOLDER = paths.PROFILES
ENVIRONMENT_VARIABLE = "TAEHV_PROFILE"
DEFAULT_PROFILE = "local"


@dataclass(frozen=True)
class Profile:
    """One machine (profiles/<name>.yaml)."""

    name: str
    description: str
    launcher: Literal["inline", "torchrun", "accelerate"]
    """`inline`: training runs in the stage's own process; the others start `processes` of them."""
    processes: Annotated[int, Bounds(low=1)]
    """Training processes on this machine; one per GPU where there are GPUs."""
    gpus: Annotated[int, Bounds(low=0)]
    """GPUs that must be present; 0 trains on the CPU."""
    gpu_name: str | None
    """Text that each GPU's name must contain, e.g. H100."""
    per_device: Annotated[int, Bounds(low=1)] | Literal["auto"]
    """Clips per micro-batch on each device; `auto` finds the most that fit into its memory before the first step."""
    validation_batch: Annotated[int, Bounds(low=1)]
    """Clips per batch in validation on each device."""
    threads: Annotated[int, Bounds(low=1)] | None
    """CPU threads per process; null uses all cores, shared out over the processes."""
    workers: Annotated[int, Bounds(low=1)] | None
    """Processes that decode videos in prepare_data; null uses all cores."""
    verify_reads: bool
    """Compare each clip with its checksum when it is first used (about 1 ms per MiB, once per clip and process). Disks
    and copies between machines do damage files, and a damaged clip trains on without a word: true unless reading is the
    bottleneck. Missing and cut-off files are found at the start in any case."""
    log_every: Annotated[int, Bounds(low=1)]
    """Steps between logged training metrics."""
    log_terms_every: Annotated[int, Bounds(low=1)]
    """Steps between measurements of each loss term's own gradient; one costs about as much as four steps."""
    checkpoint_every: Annotated[int, Bounds(low=1)]
    """Steps between rolling checkpoints, from which a crashed run goes on."""
    keep_checkpoints: Annotated[int, Bounds(low=1)]
    """Rolling checkpoints kept."""
    targets: tuple[str, ...]
    """The DVC stages that this machine runs up to."""


def load_profile(name: str | None = None, folder: Path = PROFILES_FOLDER) -> Profile:
    """The named profile; without a name, the one of TAEHV_PROFILE, or `local`.

    Raises:
        ConfigError: no such profile, or its file has problems; all of them are listed.
    """
    if name is None:
        name = os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_PROFILE
    if not folder.is_dir():
        here = f"there is no folder {folder} in {Path.cwd()}: run it in the repository's root"
        raise ConfigError("profile", [Problem("profile", here)])
    path = folder / f"{name}.yaml"
    if Path(name).name != name or not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or f"none in {folder}"
        raise ConfigError("profile", [Problem("profile", f"must be one of {known}, got {name!r}")])
    try:
        raw = read_yaml(path)
    except OSError as error:
        raise ConfigError(str(path), [Problem("(file)", f"cannot be read: {error.strerror}")]) from error
    except YamlFileError as error:
        raise ConfigError(str(path), [Problem("(file)", str(error))]) from error
    reading = Reading()
    profile = read(Profile, raw, reading)
    if reading.values.get("launcher") == "inline" and reading.values.get("processes", 1) != 1:
        reading.reject("processes", "must be 1 with the inline launcher; use torchrun or accelerate for more")
    if {"gpus", "processes"} <= reading.values.keys() and reading.values["gpus"] not in (
        0,
        reading.values["processes"],
    ):
        reading.reject("gpus", f"must be 0 or equal to processes ({reading.values['processes']})")
    unknown = [target for target in reading.values.get("targets") or () if target not in STAGE_KEYS]
    if unknown:
        reading.reject("targets", f"must be stages ({', '.join(STAGE_KEYS)}), got {', '.join(unknown)}")
    if reading.problems or profile is None:
        raise ConfigError(str(path), reading.problems)
    return profile
