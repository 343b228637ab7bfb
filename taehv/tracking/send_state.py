"""How far a journal has been sent, with the ids that the store gave (`sent.json`); and all journals that are here."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError
from pydantic.dataclasses import dataclass as validated_dataclass

from taehv.config.params import StageName
from taehv.evaluation.run_records import RecordError, read_record
from taehv.runtime import atomic_files
from taehv.runtime.paths import main_repository
from taehv.tracking.journal import read_lines

UNSENT = "unsent-"
"""How the names of folders begin that `taehv track sync` sends and deletes."""


@validated_dataclass(config={"extra": "forbid"})
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
        return SendState(**record)
    except ValidationError as error:
        raise RecordError(f"{path} is damaged: {error.errors()[0]['msg']}") from error


def send_state_if_readable(path: Path) -> SendState:
    """The same for those who only look; the beginning where the file is damaged: the next sender writes it anew."""
    try:
        return read_send_state(path)
    except RecordError:
        return SendState()


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

    def sender_lock(self) -> FileLock:
        """One sender per journal. The operating system drops it when the sender ends, however it ends."""
        return FileLock(self.root / "sender.lock", fallback_to_soft=False)

    @property
    def files(self) -> Path:
        """Copies of artifacts: the originals may be gone or changed when they are sent."""
        return self.root / "files"

    def delete(self) -> None:
        """Under another name: whoever waits for the lock must not make its file again in what is being deleted."""
        shutil.rmtree(self.root.rename(self.root.with_name(f"sent-{self.root.name}")))


def unsent_folder(stage: StageName) -> TrackingFolder:
    """A new one, which nothing but `taehv track sync` goes on with."""
    return TrackingFolder(main_repository() / ".work" / stage / f"{UNSENT}{time.time_ns()}-{os.getpid()}")


def tracking_folders() -> list[TrackingFolder]:
    """All of the main repository: of runs that are under way, can be resumed, or could not be sent."""
    work = main_repository() / ".work"
    found = [*work.glob(f"*/{UNSENT}*/journal.jsonl"), *work.glob("*/*/tracking/journal.jsonl")]
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
