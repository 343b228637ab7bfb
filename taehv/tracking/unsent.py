"""Which runs' journals are still in this repository."""

from __future__ import annotations

import contextlib

from taehv.runtime.paths import main_repository
from taehv.tracking.journal import read_lines
from taehv.tracking.send_state import TrackingFolder, send_state_if_readable


def tracking_folders() -> list[TrackingFolder]:
    """All of the main repository: of runs that are under way, can be resumed, or could not be sent."""
    work = main_repository() / ".work"
    found = [*work.glob("*/unsent-*/journal.jsonl"), *work.glob("*/*/tracking/journal.jsonl")]
    return [TrackingFolder(path.parent) for path in found]


def is_still_to_come(key: str | None) -> bool:
    """Whether a journal here has not been sent to its end yet, and is that of the run with this key."""
    folders = [] if key is None else tracking_folders()
    return any(_key_of(folder) == key and not send_state_if_readable(folder.send_state).complete for folder in folders)


def _key_of(folder: TrackingFolder) -> str | None:
    # A stage that ends deletes or moves its journal, and `taehv track sync` deletes what it has sent, at any moment.
    with contextlib.suppress(FileNotFoundError):
        for line in read_lines(folder.journal):
            if line.event is not None and line.event["kind"] == "begin":
                return str(line.event["key"])
    return None
