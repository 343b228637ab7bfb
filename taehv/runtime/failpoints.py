"""Moments at which a test lets something happen to a real process: a kill, a request to stop, no more memory.

    TAEHV_FAILPOINT=NAME:COUNT:ACTION[,NAME:COUNT:ACTION ...]

When the process passes NAME for the COUNT-th time (from 1), it does ACTION to itself, once:

    SIGKILL             sends itself that signal; SIGTERM+SIGTERM sends two
    no-memory           gets no more memory than it has
    hold=FILE           writes its process id into FILE.held, and waits where it is until FILE exists (no comma in FILE)

The names are those of ``Failpoint``. Of a training's processes only the first one acts; each of prepare_data's
workers counts for itself. Where the variable is not set, passing a moment looks into an empty dictionary.
"""

from __future__ import annotations

import enum
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

VARIABLE = "TAEHV_FAILPOINT"
SECONDS_TO_HOLD = 600.0
"""A test that was ended releases nobody: what it held ends by itself."""


class Failpoint(enum.StrEnum):
    """Where a process may be at its most vulnerable. Each name is passed in one place."""

    VIDEO = "video"
    """A worker of prepare_data is about to look at a video."""
    SHARD = "shard"
    """prepare_data has noted the shards of one number as finished."""
    STEP = "step"
    """A training step has changed the weights and is not counted yet."""
    VALIDATION = "validation"
    """One model, the averaged or the raw weights, has been measured on all clips; their row is not written."""
    HISTORY = "history"
    """validation_history.json is written, the best model may be an older one."""
    BEST_MODEL = "best-model"
    """The old best_model/ is deleted, the new one is not in its place yet."""
    CHECKPOINT_FILES = "checkpoint-files"
    """All files of a checkpoint are written, but not its manifest."""
    CHECKPOINT_MANIFEST = "checkpoint-manifest"
    """The manifest is written, too; the folder has not got its name."""
    CHECKPOINT_IN_PLACE = "checkpoint-in-place"
    """A checkpoint has got its name; older ones are not deleted yet."""
    CHECKPOINT_DELETION = "checkpoint-deletion"
    """An old checkpoint has lost its name and is about to be deleted."""
    MODEL_TRACKED = "model-tracked"
    """The tracking has been told the trained model; the training is not marked as finished."""
    FINISHED = "finished"
    """A training is marked as finished; none of its outputs is published."""
    PUBLISHED_PART = "published-part"
    """One more output, of ten, is in its published place."""
    EDITS = "edits"
    """A stage has done its work and is about to look whether its inputs were edited meanwhile."""


def failpoint(name: Failpoint) -> None:
    """Pass a moment; the product calls this, and nothing else of this file."""
    if _armed:
        _pass(name)


@dataclass(frozen=True)
class Trap:
    """One part of the variable: what to do when a moment is passed for the ``count``-th time."""

    name: Failpoint
    count: int
    text: str
    """As it was written."""
    act: Callable[[], None]


def read(environment: Mapping[str, str]) -> list[Trap]:
    """What the variable asks for.

    Raises:
        ValueError: a name, a count or an action that there is not; the message lists those that there are.
    """
    return [_parsed(part) for part in environment.get(VARIABLE, "").split(",") if part]


def _parsed(text: str) -> Trap:
    name, _, rest = text.partition(":")
    count, _, action = rest.partition(":")
    if name not in list(Failpoint):
        raise ValueError(f"{VARIABLE}={text}: there is no moment {name!r}, only {', '.join(Failpoint)}")
    if not count.isdecimal() or int(count) < 1:
        raise ValueError(f"{VARIABLE}={text}: NAME:COUNT:ACTION needs a COUNT of 1 or more, not {count!r}")
    kind, _, value = action.partition("=")
    signals = action.split("+")
    if all(part in signal.Signals.__members__ for part in signals):
        act: Callable[[], None] = partial(_send, [signal.Signals[part] for part in signals])
    elif action == "no-memory":
        act = _take_no_more_memory
    elif kind == "hold" and value:
        act = partial(_hold, Path(value))
    else:
        raise ValueError(
            f"{VARIABLE}={text}: there is no action {action!r}, only signals (SIGKILL, SIGTERM+SIGTERM), no-memory, "
            "hold=FILE"
        )
    return Trap(Failpoint(name), int(count), text, act)


def _send(numbers: list[signal.Signals]) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def _take_no_more_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(),) * 2)


def _hold(file: Path) -> None:
    whole = file.with_name(f"{file.name}.{os.getpid()}")
    whole.write_text(str(os.getpid()), encoding="ascii")
    whole.replace(file.with_name(f"{file.name}.held"))
    deadline = time.monotonic() + SECONDS_TO_HOLD
    while not file.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{VARIABLE}: held for {SECONDS_TO_HOLD:.0f} s, and {file} is not there")
        time.sleep(0.01)


def _pass(name: Failpoint) -> None:
    _passed[name] = _passed.get(name, 0) + 1
    for trap in _armed.get(name, ()):
        if trap.count == _passed[name]:
            # Whoever finds the process dead shall find out why.
            print(f"{VARIABLE}: {trap.text}", file=sys.stderr, flush=True)
            trap.act()


def _armed_in_this_process() -> dict[Failpoint, list[Trap]]:
    """By moment. An error ends the program here, at its start: what a test asks for is never left out silently."""
    try:
        traps = read(os.environ)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if os.environ.get("RANK", "0") != "0":
        return {}
    return {name: [trap for trap in traps if trap.name is name] for name in {trap.name for trap in traps}}


_armed = _armed_in_this_process()
_passed: dict[Failpoint, int] = {}
