"""Whether our launcher started this process, and which inherited variables must not reach torch, accelerate and DVC.

Clusters, notebooks and other tools leave RANK, WORLD_SIZE, PET_NNODES or ACCELERATE_USE_DEEPSPEED in the environment.
torch and accelerate believe them: a training of 8 processes then runs as one, or waits for machines that do not exist.
How many processes there are, and how they compute, is said by the profile and the code alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import PurePath

import psutil

from taehv.runtime.errors import UserError

VARIABLE = "TAEHV_LAUNCHED"
"""`PID:N`: process PID of ours started N training processes, of which this is one."""

_GROUP = frozenset(
    {
        "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "NODE_RANK", "NPROC",
        "ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "MPI_LOCALNRANKS", "MPI_LOCALRANKID",
    }
)  # fmt: skip
_GROUP_PREFIXES = ("TORCHELASTIC_", "PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")
"""With these torch and accelerate find the other processes; in a process of our launcher they are the launcher's."""
_SETTINGS = frozenset({"FORK_LAUNCHED"})
_SETTINGS_PREFIXES = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "FP8_", "PET_")
"""With these accelerate computes otherwise, and torch's launcher (PET_) starts otherwise."""
_LAUNCHERS = frozenset({"torchrun", "accelerate"})
_LAUNCHER_MODULES = frozenset({"torch.distributed.run", "accelerate.commands.launch"})
_KEPT = frozenset({"TORCHELASTIC_ERROR_FILE"})


def launched_processes() -> int | None:
    """How many training processes a launcher started, if this is one of them; None elsewhere.

    What the environment says counts only where the process tree says it too: ours must be above this process, or
    torch's launcher, which someone has started by hand, be its parent.

    Raises:
        UserError: the variable is not one that the launcher writes.
    """
    world, parent = os.environ.get("WORLD_SIZE", ""), psutil.Process().parent()
    if world.isdecimal() and parent is not None and _is_torchs_launcher(parent):
        return int(world)
    text = os.environ.get(VARIABLE)
    if text is None:
        return None
    pid, _, count = text.partition(":")
    if not (pid.isdecimal() and count.isdecimal()):
        raise UserError(
            f"{VARIABLE} is the launcher's own variable, and {text!r} is nothing it writes: unset {VARIABLE}"
        )
    above = {process.pid for process in psutil.Process().parents()}
    return int(count) if int(pid) in above else None


def _is_torchs_launcher(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    modules = {command[i + 1] for i, word in enumerate(command[:-1]) if word == "-m"}
    return bool(modules & _LAUNCHER_MODULES or {PurePath(word).name for word in command[:2]} & _LAUNCHERS)


def mark(processes: int) -> dict[str, str]:
    """The variable that tells the ``processes`` below this one that they are ours."""
    return {VARIABLE: f"{os.getpid()}:{processes}"}


def forget_inherited(environment: MutableMapping[str, str], *, keep_group: bool = False) -> None:
    """Remove what only a launcher of ours, or the code itself, may say.

    Args:
        environment: is changed.
        keep_group: leave what the processes of our launcher find each other with.
    """
    for name in [name for name in environment if _is_setting(name) or (not keep_group and _is_group(name))]:
        del environment[name]


def without_inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """A copy for a launcher that is started from here."""
    copy = dict(environment)
    forget_inherited(copy)
    copy.pop(VARIABLE, None)
    return copy


def _is_setting(name: str) -> bool:
    return name in _SETTINGS or name.startswith(_SETTINGS_PREFIXES)


def _is_group(name: str) -> bool:
    return (name in _GROUP or name.startswith(_GROUP_PREFIXES)) and name not in _KEPT
