"""Profiles: what a machine is, and what changes only speed and memory there. Nothing here changes a result."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from taehv.config.sections import AtLeastOne, AtLeastZero, Rules, Section, read_file, read_section
from taehv.config.stage_keys import STAGE_KEYS
from taehv.runtime import paths
from taehv.runtime.errors import ConfigError, Problem

PROFILES_FOLDER = paths.PROFILES
ENVIRONMENT_VARIABLE = "TAEHV_PROFILE"
DEFAULT_PROFILE = "local"


def _impossible(values: Mapping[str, Any]) -> Iterator[Problem]:
    match values:
        case {"launcher": "inline", "processes": processes} if processes != 1:
            yield Problem("processes", "must be 1 with the inline launcher; use torchrun for more")
    match values:
        case {"gpus": gpus, "processes": processes} if gpus not in (0, processes):
            yield Problem("gpus", f"must be 0 or equal to processes ({processes})")
    match values:
        case {"ray_address": str(), "workers": workers} if workers != "ray":
            yield Problem("ray_address", f"is read with workers: ray alone, workers is {workers}")
    unknown = [target for target in values.get("targets", ()) if target not in STAGE_KEYS]
    if unknown:
        yield Problem("targets", f"must be stages ({', '.join(STAGE_KEYS)}), got {', '.join(unknown)}")


class Profile(Section):
    """One machine (profiles/<name>.yaml)."""

    rules: ClassVar[Rules] = _impossible

    name: str
    description: str
    launcher: Literal["inline", "torchrun"]
    """`inline`: training runs in the stage's own process; `torchrun` starts `processes` of them."""
    processes: AtLeastOne
    """Training processes on this machine; one per GPU where there are GPUs."""
    gpus: AtLeastZero
    """GPUs that must be present; 0 trains on the CPU."""
    gpu_name: str | None
    """Text that each GPU's name must contain, e.g. H100."""
    per_device: AtLeastOne | Literal["auto"]
    """Clips per micro-batch on each device; `auto` finds the most that fit into its memory before the first step."""
    validation_batch: AtLeastOne
    """Clips per batch in validation on each device."""
    threads: AtLeastOne | None
    """CPU threads per process; null uses all cores, shared out over the processes."""
    workers: AtLeastOne | Literal["ray"] | None
    """Processes that decode videos in prepare_data; null uses all cores; `ray` those of a Ray cluster."""
    ray_address: str | None
    """The cluster, with `workers: ray`: `host:port`, or `auto` for the one that this machine is part of; null starts
    one on this machine alone."""
    reader_workers: AtLeastZero
    """Processes that read clips for each training process, where they are stored as video (docs/data.md says how many
    it takes); 0: one thread, which is best for raw clips."""
    verify_reads: bool
    """Compare each clip with its checksum when it is first used (about 1 ms per MiB, once per clip and process). Disks
    and copies between machines do damage files, and a damaged clip trains on without a word: true unless reading is the
    bottleneck. Missing and cut-off files are found at the start in any case."""
    store_cache: str | None
    """A folder on a local disk for what is read from an object store (data.store.url); null is .work/clips."""
    store_cache_gb: AtLeastZero
    """10^9 bytes of it that may be used; the ranges that were not read for longest go first. 0 caches nothing."""
    log_every: AtLeastOne
    """Steps between logged training metrics."""
    log_terms_every: AtLeastOne
    """Steps between measurements of each loss term's own gradient; one costs about as much as four steps."""
    checkpoint_every: AtLeastOne
    """Steps between rolling checkpoints, from which a crashed run goes on."""
    keep_checkpoints: AtLeastOne
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
    return read_section(Profile, read_file(path), str(path))
