"""The work of ``workers.py`` on a Ray cluster, or on a Ray of this machine alone.

Tasks and results are small: paths, plans, records. What is read and written are files, under the same paths on all
machines of the cluster (a shared file system), in the same environment. Ray gives a task whose process or machine was
lost to another one; a task may therefore run twice, and writes the same again.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from taehv.data import workers
from taehv.data.workers import ResultT, TaskT
from taehv.runtime.errors import UserError
from taehv.runtime.machine import available_cores

_WINDOW = 4
"""Tasks per core of the cluster that are handed out and not yet given back."""
_CONNECT_SECONDS = 10.0
_RETRIES = 3
"""How often a task may lose its process or machine; Ray does not count want of memory, and waits and tries again."""


class RayWorkers:
    """A ``Mapper`` (taehv/data/workers.py) on the Ray cluster at ``address``.

    Raises:
        UserError: Ray is not installed, or there is no cluster at that address.
    """

    def __init__(self, address: str | None) -> None:
        """``address``: ``host:port``, or ``auto`` for the cluster that this machine is in; None starts one here."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # `ray start` asks for a token where it has one; a program that joins must know so before it imports Ray.
        if address and _has_token():
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        try:
            import ray
        except ImportError as error:
            raise UserError("workers: ray needs the package ray: pip install 'ray[default]'") from error
        self._ray = ray
        alone: dict[str, Any] = {} if address else {"num_cpus": available_cores(), "include_dashboard": False}
        try:
            _reach(address)
            ray.init(address=address or "local", logging_level=logging.WARNING, log_to_driver=True, **alone)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"there is no Ray cluster at {address!r} ({error}). Start one with `ray start --head`, name it in "
                "ray_address of the profile (and its token in RAY_AUTH_TOKEN), or make it null for this machine alone"
            ) from error
        self._cores = int(ray.cluster_resources().get("CPU", 1))
        self._run: Any = ray.remote(num_cpus=1, max_retries=_RETRIES, retry_exceptions=False)(_run)

    def map(
        self,
        function: Callable[[TaskT], ResultT],
        tasks: Iterable[TaskT],
        *,
        label: str,
        unit: str,
        total: int | None,
        name: Callable[[TaskT], str],
    ) -> Iterator[ResultT]:
        """See Mapper. The bar moves when a task is finished: its units are counted where it runs."""
        remaining, here = iter(tasks), str(Path.cwd())
        handed: deque[tuple[TaskT, Any]] = deque()
        with workers.progress_bar(label, unit, total) as bar:
            while True:
                for task in islice(remaining, _WINDOW * self._cores - len(handed)):
                    handed.append((task, self._run.remote(function, task, here)))
                if not handed:
                    return
                task, promised = handed.popleft()
                result, units = self._result(promised, label, name(task))
                bar.update(units)
                yield result

    def _result(self, promised: Any, label: str, task: str) -> tuple[Any, int]:
        from ray.exceptions import RayError, RayTaskError

        try:
            result: tuple[Any, int] = self._ray.get(promised)
        except RayTaskError as error:  # the function raised it: so does this one
            raise error.cause from error
        except RayError as error:
            raise UserError(
                f"{label}: the process at {task} was lost {_RETRIES + 1} times ({type(error).__name__}), most likely "
                "for want of memory: see Ray's log. If it happens again, take it out of the list of videos"
            ) from error
        return result

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()  # cancels what is still handed out


def _reach(address: str | None) -> None:
    """Connect once to a named machine: Ray itself tries for many minutes.

    Raises:
        OSError: nobody listens there.
        ValueError: it is not ``host:port``.
    """
    if address not in (None, "auto"):
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()


def _has_token() -> bool:
    """Whether this machine has a Ray token, in the places where Ray looks for it."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


def _run(function: Callable[[TaskT], ResultT], task: TaskT, folder: str) -> tuple[ResultT, int]:
    """In a process of the cluster: the result, and the units of work that were counted meanwhile."""
    os.chdir(folder)
    with workers.counting() as counted:
        return function(task), counted.value
