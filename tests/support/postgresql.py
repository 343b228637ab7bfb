"""A real PostgreSQL server in a temporary folder, on loopback only."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mlflow_servers import free_port

DEBIAN = Path("/usr/lib/postgresql")
"""Where Debian puts what is not meant for PATH."""
USERS = ("postgres", "nobody")
"""PostgreSQL refuses to run as root; these run it where the tests are root."""


def program(name: str) -> str:
    """Where the program is; skips the test where PostgreSQL is not installed."""
    found = shutil.which(name) or next(map(str, sorted(DEBIAN.glob(f"*/bin/{name}"), reverse=True)), None)
    if found is None:
        pytest.skip(f"PostgreSQL is not installed: there is no {name} (apt-get install postgresql)")
    return found


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """The URI of an empty database."""
    pytest.importorskip("psycopg")
    initdb, server = program("initdb"), program("postgres")
    # Not below pytest's folder, into which only the user of the tests may look.
    folder = Path(tempfile.mkdtemp(prefix="taehv-postgresql-"))
    user = _user_for_root()
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    identity = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data, port = folder / "data", free_port()
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(folder)}
    process = None
    try:
        subprocess.run(
            [initdb, "-D", str(data), "-U", "taehv", "--auth", "trust", "--encoding", "UTF8", "--no-sync"],
            check=True,
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            **identity,  # type: ignore[call-overload]
        )
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [server, "-D", str(data), "-p", str(port), *options],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
                **identity,  # type: ignore[call-overload]
            )
        _wait_until_it_answers(process, port)
        yield f"postgresql://taehv@127.0.0.1:{port}/postgres"
    finally:
        if process is not None:
            # Fast shutdown: on SIGTERM it would wait for the tests' own connections.
            process.send_signal(signal.SIGINT)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _user_for_root() -> pwd.struct_passwd | None:
    if os.getuid() != 0:
        return None
    for name in USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip(f"PostgreSQL does not run as root, and there is no user {' or '.join(USERS)}")


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int) -> None:
    import psycopg
    from support.mlflow_servers import wait_until

    def answers() -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(host="127.0.0.1", port=port, user="taehv", dbname="postgres").close()
            return True
        return False

    wait_until(answers, process)
