"""The stage's side of the process that sends: start it, restart it, wait for it at the end."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time

from taehv.runtime.errors import UserError
from taehv.tracking.send_state import TrackingFolder

log = logging.getLogger("taehv.tracking")

PATIENCE_VARIABLE = "TAEHV_TRACKING_DRAIN_SECONDS"
PATIENCE_S = 60.0
SECONDS_BETWEEN_STARTS = 30.0


def patience_from_environment() -> float:
    """How long the end of a stage may wait for the store, in seconds.

    Raises:
        UserError: the variable is not a number of seconds.
    """
    text = os.environ.get(PATIENCE_VARIABLE, str(PATIENCE_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise UserError(f"{PATIENCE_VARIABLE} must be a number of seconds, got {text}")
    return seconds


class SenderProcess:
    """`taehv.tracking.sender_main` for one folder. Nothing of it can fail or slow the stage."""

    def __init__(self, folder: TrackingFolder) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._said = False
        self._start()

    def look_after(self) -> None:
        """Start it again if it ended (killed for memory, say) or could not be started, but not all the time."""
        if not self._lives() and time.monotonic() - self._started > SECONDS_BETWEEN_STARTS:
            self._start()

    def finish(self, seconds: float) -> bool:
        """The run's end is in the journal: wait until all has arrived, at most so long; True if it has."""
        if not self._lives():
            # Whatever it said when it ended, it said before the run's end was in the journal.
            self._start()
        if self._process is None:
            return False
        self._close_pipe()
        try:
            return self._process.wait(timeout=seconds) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            self.stop()

    def stop(self) -> None:
        """End it now: the journal and sent.json are all that it has."""
        self._close_pipe()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _start(self) -> None:
        self._close_pipe()
        self._started = time.monotonic()
        try:
            # A session of its own: Ctrl-C at the terminal is for the stage. It writes where the stage's errors go.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "taehv.tracking.sender_main", str(self._folder.root), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            self._process = None
            if not self._said:
                log.warning(
                    "WARNING: tracking: the process that tells MLflow cannot be started (%s); the stage goes on, "
                    "everything is kept in %s, and it is tried again",
                    os.strerror(error.errno or 0),
                    self._folder.journal,
                )
            self._said = True

    def _close_pipe(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
