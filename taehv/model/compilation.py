"""torch.compile for a training step on a GPU: fixed shapes, one graph per pass, loud where it cannot be done.

What is compiled is kept in a folder (``use_cache_folder``): the first start of a configuration takes minutes, later
ones seconds. ``TORCHDYNAMO_DISABLE=1``, PyTorch's own switch, trains without.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

log = logging.getLogger(__name__)

P = ParamSpec("P")
Result = TypeVar("Result")

COMPILERS = ("gcc", "clang", "cc")
"""One of these builds Triton's launchers; CC names another one."""


_switched_off = False


class Compiled(Generic[P, Result]):
    """A function that is compiled at its first call with each combination of shapes.

    Where that is impossible it runs as it is, slower, and says why, once.
    """

    def __init__(self, function: Callable[P, Result], name: str) -> None:
        """``name`` says, in the log, what is compiled."""
        self._function = function
        self._name = name
        self._compiled: Callable[P, Result] = torch.compile(function, dynamic=False, fullgraph=True)
        self._seen: set[object] = set()
        self._given_up = False

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        if self._given_up or _switched_off:
            return self._function(*args, **kwargs)
        signature = tuple(_signature(value) for value in (*args, *kwargs.values()))
        if signature in self._seen:
            return self._compiled(*args, **kwargs)
        return self._first_call(signature, *args, **kwargs)

    def _first_call(self, signature: object, *args: P.args, **kwargs: P.kwargs) -> Result:
        reason = why_not()
        if reason is not None:
            return self._give_up(reason, *args, **kwargs)
        log.info("compiling %s: up to two minutes, seconds from the second start on", self._name)
        started = time.perf_counter()
        try:
            result = self._compiled(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            cause = getattr(error, "inner_exception", None)
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from error
            return self._give_up(
                f"{type(error).__name__}: {str(cause or error).strip().splitlines()[0]}", *args, **kwargs
            )
        log.info("compiled %s in %.0f s", self._name, time.perf_counter() - started)
        self._seen.add(signature)
        return result

    def _give_up(self, reason: str, *args: P.args, **kwargs: P.kwargs) -> Result:
        log.warning("%s runs without torch.compile, at about 0.6 times the speed: %s", self._name, reason)
        self._given_up = True
        return self._function(*args, **kwargs)


@contextlib.contextmanager
def switched_off() -> Iterator[None]:
    """Inside, nothing is compiled: for what is done rarely, or with other shapes."""
    global _switched_off
    before, _switched_off = _switched_off, True
    try:
        yield
    finally:
        _switched_off = before


def why_not() -> str | None:
    """What this machine lacks to compile for a GPU; None where nothing is missing."""
    if os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        return "TORCHDYNAMO_DISABLE is 1"
    if not torch.cuda.is_available():
        return None  # a rehearsal on a CPU
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed (pip install triton)"
    if torch.cuda.get_device_capability() < (7, 0):
        return f"Triton does not know {torch.cuda.get_device_name()}"
    if not any(map(shutil.which, (os.environ.get("CC", ""), *COMPILERS))):
        return f"there is no C compiler (one of {', '.join(COMPILERS)}, or what CC names): install gcc"
    return None


def use_cache_folder(folder: Path) -> None:
    """Keep what is compiled in ``folder``, unless TORCHINDUCTOR_CACHE_DIR names another one."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def _signature(value: Any) -> object:
    """What a compiled graph is fixed to."""
    return (value.shape, value.dtype) if isinstance(value, Tensor) else id(value) if callable(value) else value
