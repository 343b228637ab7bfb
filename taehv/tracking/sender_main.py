"""The process beside a stage that tells MLflow what the stage writes into its journal.

    python -m taehv.tracking.sender_main FOLDER PROCESS_ID_OF_THE_STAGE

A process and not a thread: a store's client library, its threads and its hanging calls cannot hold up training, which
does not even import it, and it can be ended at any moment because the journal and the position are all it has. It ends
when the run's end has arrived; when the stage is dead it sends what is left while the store answers, and leaves the
rest to `taehv track sync`. A stage that ended in order closes this process's standard input and waits: then the store
has as long as the stage's patience lasts.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from pathlib import Path

from taehv.tracking.secrets import hide_secrets_in_output
from taehv.tracking.send_state import TrackingFolder

NICENESS = 10
"""Training comes first."""
SECONDS_BETWEEN_LOOKS = 5.0
"""A batch costs a database as much as a few points: fewer, larger ones. The end of the stage is noticed at once."""
LONGEST_WAIT_S = 30.0
LONGEST_WAIT_AT_END_S = 2.0
EXIT_LEFT = 3
"""Something is left to send."""


def say(message: str) -> None:
    """To the person at the terminal."""
    print(f"WARNING: tracking: {message}", file=sys.stderr)


def main() -> int:
    """Follow the journal to the run's end; the exit code says whether all of it arrived."""
    hide_secrets_in_output()
    sys.stdout = sys.stderr
    os.nice(NICENESS)
    folder, stage = TrackingFolder(Path(sys.argv[1])), int(sys.argv[2])
    lock = folder.sender_lock()
    with contextlib.suppress(FileNotFoundError):
        lock.acquire()
    if not folder.journal.exists():
        # `taehv track sync` had the lock and deletes only what has arrived.
        return 0
    return follow(folder, stage)


def follow(folder: TrackingFolder, stage: int) -> int:
    """Send until the end of the stage with this process id; see the module."""
    from taehv.tracking.sender import Sender
    from taehv.tracking.store import StoreError

    sender = Sender(folder, say, stage_lives=True)
    at_end = False
    while True:
        stage_is_dead = os.getppid() != stage  # asked first: nothing is written after that
        try:
            delivered = sender.deliver()
        except StoreError as error:
            say(str(error))
            return EXIT_LEFT
        if delivered and sender.send_state.complete:
            return EXIT_LEFT if sender.losses or sender.send_state.refused else 0
        if stage_is_dead:
            return EXIT_LEFT
        if at_end:
            time.sleep(sender.wait_s(LONGEST_WAIT_AT_END_S))
        else:
            at_end = closed_within(SECONDS_BETWEEN_LOOKS if delivered else sender.wait_s(LONGEST_WAIT_S))


def closed_within(seconds: float) -> bool:
    """Whether the stage closes this process's standard input meanwhile; returns at once when it does."""
    return bool(select.select([sys.stdin], [], [], seconds)[0])


if __name__ == "__main__":
    sys.exit(main())
