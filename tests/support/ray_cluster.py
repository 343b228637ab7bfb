"""A real Ray cluster of two nodes on this machine, each with one core: two `ray start`, with processes of their own."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class RayCluster:
    address: str
    nodes: tuple[subprocess.Popen[bytes], ...]
    """Head first; each is `ray start --block`, whose children are the node."""

    def kill_node(self, number: int) -> None:
        """As when a machine goes off: the node and all of its workers die at once."""
        _kill(self.nodes[number].pid)


@contextmanager
def ray_cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """``folder``: a short path, for Ray's sockets lie in it. Who joins has the cluster's token, by the environment."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    import ray.util  # it notes when it is imported how clusters are joined

    # Ray takes 127.0.0.1 for the machine's own address, at which the head then has to listen.
    address = f"{ray.util.get_node_ip_address()}:{port}"
    nodes: list[subprocess.Popen[bytes]] = []
    small = ["--num-cpus=1", "--object-store-memory=80000000", "--block", "--disable-usage-stats"]
    head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"]
    try:
        for which in (head, [f"--address={address}"]):
            with (folder / f"node-{len(nodes)}.log").open("wb") as log:
                command = [str(RAY), "start", *which, *small]
                nodes.append(subprocess.Popen(command, stdout=log, stderr=log))
            _wait_until_up(address, len(nodes), folder)
        yield RayCluster(address, tuple(nodes))
    finally:
        for node in nodes:
            if node.poll() is None:
                _kill(node.pid)
            node.wait()


def _kill(process: int) -> None:
    """It and all that it has started, at once."""
    node = psutil.Process(process)
    for one in [*node.children(recursive=True), node]:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def _wait_until_up(address: str, nodes: int, folder: Path) -> None:
    program = (
        "import ray, sys, time\n"
        "ray.init(address=sys.argv[1], logging_level='error')\n"
        "while sum(node['Alive'] for node in ray.nodes()) < int(sys.argv[2]): time.sleep(0.2)\n"
    )
    for _ in range(20):
        started = subprocess.run([sys.executable, "-c", program, address, str(nodes)], capture_output=True, timeout=60)
        if started.returncode == 0:
            return
    logs = "\n".join(log.read_text() for log in folder.glob("node-*.log"))
    raise AssertionError(f"no Ray cluster came up:\n{started.stderr.decode()}\n{logs}")
