"""The process beside a stage that tells MLflow what the stage writes into its journal.

    python -m taehv.tracking.sender_main FOLDER PROCESS_ID_OF_THE_STAGE

A process and not a thread: a store's client library, its threads and its hanging calls cannot hold up training, which
does not even import it, and it can be ended at any moment because the journal and the position are all it has. It ends
when the run's end has arrived; when the stage is gone it sends what is left while the store answers, and leaves the
rest to `taehv track sync`. A stage that ended in order closes this process's standard input and waits: then the store
has as long as the stage's patience lasts. One that died waits for nothing.
"""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

from taehv.tracking.journal import has_ended
from taehv.tracking.secrets import hide_secrets_in_output
from taehv.tracking.send_state import SenderLock, TrackingFolder

NICENESS = 10
"""Training comes first."""
SECONDS_BETWEEN_LOOKS = 5.0
"""A batch costs a database as much as a few points: fewer, larger ones. The end of the stage is noticed at once."""
LONGEST_WAIT_S = 30.0
LONGEST_WAIT_AT_END_S = 2.0
EXIT_LEFT = 3
"""Something is left to send."""


class Stage:
    """The stage that started this process, seen through the pipe that it holds open."""

    def __init__(self, process_id: int) -> None:
        self._process_id = process_id
        self.gone = False
        """Whether it has closed the pipe: it has ended and waits, or it died."""

    @property
    def died(self) -> bool:
        """Whether nobody waits for this process any more."""
        return os.getppid() != self._process_id

    def wait(self, seconds: float) -> None:
        """Until the time is over or the stage closes the pipe, whichever comes first."""
        if self.gone:
            select.select([], [], [], min(seconds, SECONDS_BETWEEN_LOOKS))
        elif select.select([sys.stdin], [], [], seconds)[0]:
            self.gone = not os.read(sys.stdin.fileno(), 1)


def say(message: str) -> None:
    """To the person at the terminal."""
    print(f"WARNING: tracking: {message}", file=sys.stderr)


def main() -> int:
    """Follow the journal to the run's end; the exit code says whether all of it arrived."""
    hide_secrets_in_output()
    sys.stdout = sys.stderr
    os.nice(NICENESS)
    folder = TrackingFolder(Path(sys.argv[1]))
    SenderLock(folder.sender_lock).acquire(wait=True)
    if not folder.journal.exists():
        # `taehv track sync` had the lock and deletes only what has arrived.
        return 0
    return follow(folder, Stage(int(sys.argv[2])))


def follow(folder: TrackingFolder, stage: Stage) -> int:
    """Send until the end; see the module."""
    from taehv.tracking.mlflow_writer import NotThereYetError
    from taehv.tracking.sender import Sender
    from taehv.tracking.store_uri import StoreError

    sender = Sender(folder, may_change_store=True, say=say)
    while True:
        try:
            delivered = sender.deliver()
        except NotThereYetError as error:
            say(f"waiting for {error}, which another journal holds: taehv track sync")
            return EXIT_LEFT
        except StoreError as error:
            say(str(error))
            return EXIT_LEFT
        ended = has_ended(folder.journal)
        if delivered and ended and sender.send_state.complete:
            return EXIT_LEFT if sender.losses or sender.send_state.refused else 0
        if (stage.gone and not ended) or (stage.died and not delivered):
            return EXIT_LEFT
        longest = LONGEST_WAIT_AT_END_S if ended else LONGEST_WAIT_S
        stage.wait(SECONDS_BETWEEN_LOOKS if delivered else sender.wait_s(longest))


if __name__ == "__main__":
    sys.exit(main())
