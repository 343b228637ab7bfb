"""Real tracking servers that are really killed, and a socket that never answers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

PATIENCE_S = 300.0
"""Until a test gives up on something that must happen: a hang, not a speed limit."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class MlflowServer:
    """`mlflow server` on a database, by default a sqlite file, always on the same port."""

    def __init__(self, root: Path, database: str | None = None) -> None:
        self.root = root
        self.database = database or f"sqlite:///{root / 'server.db'}"
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", self.database, "--workers", "1"]
        command += ["--artifacts-destination", str(self.root / "server-artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with (self.root / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=self.root, start_new_session=True
            )
        wait_until(self.answers, self._process)

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(urllib.request.urlopen(f"{self.uri}/health", timeout=5).status == 200)
        return False

    def processes(self) -> list[psutil.Process]:
        """The server and its workers."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        return [process, *process.children(recursive=True)]

    def kill(self) -> None:
        """kill -9, workers included."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def wait_until(condition: object, process: subprocess.Popen[bytes] | subprocess.Popen[str] | None = None) -> None:
    """Until ``condition()`` is true, as long as ``process`` lives."""
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process is None or process.poll() is None, f"the process ended with {process.returncode}"
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """The URI of a server that takes every connection and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        connections: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connections.append(listening.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            connection.close()


@contextlib.contextmanager
def proxy_that_loses_answers(server_port: int, every: int) -> Iterator[str]:
    """Forwards to a server; of every so many requests it forwards the request but cuts off the answer."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        count = 0

        def serve(client: socket.socket, lose: bool) -> None:
            with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", server_port)) as server:
                client.settimeout(20)
                request = _whole_message(client)
                server.sendall(request.replace(b"Connection: keep-alive", b"Connection: close"))
                answer = b"".join(iter(lambda: server.recv(65536), b""))
                if not lose:
                    client.sendall(answer)

        def accept() -> None:
            nonlocal count
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    count += 1
                    threading.Thread(target=serve, args=(client, count % every == 0), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy_that_answers(server_port: int, answer: Callable[[bytes], bytes | None]) -> Iterator[str]:
    """Forwards to a server, but for the requests to which ``answer`` gives an answer of its own."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def serve(client: socket.socket) -> None:
            with contextlib.suppress(OSError), client:
                client.settimeout(20)
                request = _whole_message(client)
                own = answer(request) if request else b""
                if own is not None:
                    client.sendall(own)
                    return
                with socket.create_connection(("127.0.0.1", server_port)) as server:
                    server.sendall(request.replace(b"Connection: keep-alive", b"Connection: close"))
                    client.sendall(b"".join(iter(lambda: server.recv(65536), b"")))

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def json_answer(status: str, body: bytes) -> bytes:
    """A whole HTTP answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


@contextlib.contextmanager
def dripping_server(first: bytes) -> Iterator[str]:
    """The URI of a server that begins every answer with ``first`` and goes on with a byte now and then, for ever."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def drip(client: socket.socket) -> None:
            with contextlib.suppress(OSError), client:
                _whole_message(client)
                client.sendall(first)
                while True:
                    time.sleep(0.2)
                    client.sendall(b" ")

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=drip, args=(listening.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def _whole_message(connection: socket.socket) -> bytes:
    """One HTTP request with its body."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(65536)
        if not part:
            return received
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().splitlines() if line.startswith(b"content-length:")]
    while len(body) < (int(lengths[0]) if lengths else 0):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body
