"""What counts as a request to stop, in one process; what training then does is in test_interruption.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from support.project import REPOSITORY

from taehv.training.interruption import EXIT_CODES, PARENT_DIED, StopRequests

IN_A_STEP_THAT_TAKES_LONG = """
import time
from taehv.training.interruption import StopRequests
with StopRequests().listening():
    print("in a step", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGUSR1", 143), ("SIGINT", 130), ("SIGHUP", 143)])
def test_a_signal_is_noted_and_ends_nothing_and_a_second_one_at_once_is_the_same_request(name: str, code: int) -> None:
    requests = StopRequests()
    with requests.listening():
        assert requests.pending == set()
        for _ in range(2):
            os.kill(os.getpid(), getattr(signal, name))
        assert requests.pending == {name}
    assert EXIT_CODES[name] == code


def test_a_signal_that_was_ignored_at_the_start_stays_ignored() -> None:
    """`nohup` ignores the end of the terminal."""
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        requests = StopRequests()
        with requests.listening():
            os.kill(os.getpid(), signal.SIGHUP)
            assert requests.pending == set()
    finally:
        signal.signal(signal.SIGHUP, earlier)


def test_the_death_of_the_launcher_is_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as launcher:
        monkeypatch.setenv("TAEHV_LAUNCHER_PID", str(launcher.pid))
        requests = StopRequests()
        assert requests.pending == set()
        launcher.kill()
    assert requests.pending == {PARENT_DIED}
    assert StopRequests().pending == {PARENT_DIED}, "also where it died before this process could look"


@pytest.mark.slow
def test_a_second_request_ends_the_process_at_once() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_STEP_THAT_TAKES_LONG], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in a step\n"
    process.terminate()
    time.sleep(1.5)
    assert process.poll() is None, "the first one waits for the end of the step"
    process.terminate()
    assert process.wait(timeout=60) == 143
