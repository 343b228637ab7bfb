"""How far a journal has been sent, with the ids that the store gave (`sent.json`); and all journals that are here."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path

from taehv.evaluation.run_records import RecordError, read_record
from taehv.runtime import atomic_files
from taehv.runtime.paths import main_repository
from taehv.tracking.journal import read_lines


@dataclass
class SendState:
    """What is known to have arrived. Written after each batch; what a crash hides is sent again."""

    store: str | None = None
    """The tracking URI without secrets; None before the first connection."""
    run_id: str | None = None
    model_id: str | None = None
    next_number: int = 0
    """Every event with a smaller number has arrived, or is in ``refused``."""
    refused: dict[int, str] = field(default_factory=dict)
    """Events that the store will never take, by number, and its reason."""
    complete: bool = False
    """The run's end has arrived, or a run whose process died was closed."""

    def write(self, path: Path) -> None:
        """Replace the file."""
        atomic_files.write_json(path, {"schema": 1, **dataclasses.asdict(self)})


def read_send_state(path: Path) -> SendState:
    """What has arrived; the beginning where nothing was sent yet.

    Raises:
        RecordError: the file is damaged.
    """
    if not path.exists():
        return SendState()
    record = read_record(path)
    del record["schema"]
    try:
        send_state = SendState(**record)
        send_state.refused = {int(number): str(reason) for number, reason in send_state.refused.items()}
        send_state.next_number = int(send_state.next_number)
        # What is no MLflow server may once have been believed that it had made a run without an id.
        send_state.run_id, send_state.model_id = send_state.run_id or None, send_state.model_id or None
    except (TypeError, ValueError, AttributeError) as error:
        raise RecordError(f"{path} is damaged: {error}") from error
    return send_state


def send_state_if_readable(path: Path) -> SendState:
    """The same for those who only look; the beginning where the file is damaged: the next sender writes it anew."""
    try:
        return read_send_state(path)
    except RecordError:
        return SendState()


class SenderLock:
    """One sender per journal: two would send the same points."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def acquire(self, *, wait: bool) -> bool:
        """Take it; False if another process has it and ``wait`` is off, or if the folder is deleted."""
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(file)
            return False
        self._file = file
        return True

    def release(self) -> None:
        """Give it back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


@dataclass(frozen=True)
class TrackingFolder:
    """Everything that tracking keeps of one run until all of it has arrived."""

    root: Path

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def send_state(self) -> Path:
        return self.root / "sent.json"

    @property
    def sender_lock(self) -> Path:
        return self.root / "sender.lock"

    @property
    def files(self) -> Path:
        """Copies of artifacts: the originals may be gone or changed when they are sent."""
        return self.root / "files"


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
