"""`taehv track`: send what finished, failed and killed runs could not."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taehv.runtime.paths import main_repository
from taehv.tracking.journal import has_ended, is_being_written, read_lines
from taehv.tracking.secrets import without_secrets
from taehv.tracking.send_state import SenderLock, SendState, TrackingFolder, send_state_if_readable, tracking_folders

if TYPE_CHECKING:
    from taehv.tracking.sender import Sender

ATTEMPTS = 3
"""Of one event, and of reaching the store."""


@dataclass(frozen=True)
class UnsentJournal:
    """One journal that is still here."""

    folder: TrackingFolder
    begun: int
    """Milliseconds since 1970."""
    stage: str
    running: bool
    ended: bool
    events: int
    waiting: int
    """Events that have not arrived."""
    points: int
    """Metric points among them."""
    losses: int
    send_state: SendState

    @property
    def resumable(self) -> bool:
        """Whether the stage can go on with it: then the journal must stay, it knows which points there were."""
        return self.folder.root.name == "tracking"

    def describe(self) -> str:
        """One line for a person."""
        if self.running:
            state = "running"
        elif not self.ended:
            state = "its process is gone"
        else:
            state = "ended"
        parts = [f"{self.waiting} of {self.events} events to send, {self.points} metric points among them"]
        if self.send_state.refused:
            parts.append(f"{len(self.send_state.refused)} refused by the store")
        if self.losses:
            parts.append(f"damaged in {self.losses} place(s)")
        return f"{self.stage}  {state}; {'; '.join(parts)}  {self.folder.root}"


def journals() -> list[UnsentJournal]:
    """All journals of the main repository, in the order in which their runs began."""
    unsent_journals = []
    for folder in tracking_folders():
        # A stage that ends deletes or moves its journal, and another sync deletes what it has sent, at any moment.
        with contextlib.suppress(FileNotFoundError):
            unsent_journals.append(_look_at(folder))
    return sorted(unsent_journals, key=lambda unsent: unsent.begun)


def _look_at(folder: TrackingFolder) -> UnsentJournal:
    send_state = send_state_if_readable(folder.send_state)
    events = waiting = points = losses = begun = 0
    for line in read_lines(folder.journal):
        event = line.event
        losses += line.loss is not None
        if event is None:
            continue
        begun = begun or int(event["time"])
        events += 1
        if event["seq"] >= send_state.next_number:
            waiting += 1
            points += len(event["values"]) if event["kind"] == "metrics" else 0
    return UnsentJournal(
        folder,
        begun,
        folder.root.relative_to(main_repository() / ".work").parts[0],
        is_being_written(folder.journal),
        has_ended(folder.journal),
        events,
        waiting,
        points,
        losses,
        send_state,
    )


def sync(unsent_journals: Iterable[UnsentJournal], say: Callable[[str], None]) -> bool:
    """Send everything that no living process sends; True if nothing is left that could be sent.

    A journal is deleted when all of it has arrived and nothing can continue it. One that is damaged, or of which the
    store refuses something, is kept and named.
    """
    arrived = [_sync_one(unsent, say) for unsent in unsent_journals]
    return all(arrived)


def _sync_one(unsent: UnsentJournal, say: Callable[[str], None]) -> bool:
    folder, lock = unsent.folder, SenderLock(unsent.folder.sender_lock)
    locked = not unsent.running and lock.acquire(wait=False)
    try:
        if not folder.journal.exists():
            say(f"{unsent.stage}: the journal is gone, its own process or another sync came first  {folder.root}")
            return True
        if not locked:
            say(f"{unsent.stage}: running, its own process sends it  {folder.root}")
            return True
        return _send_and_delete(unsent, say)
    finally:
        lock.release()


def _send_and_delete(unsent: UnsentJournal, say: Callable[[str], None]) -> bool:
    folder, problem = unsent.folder, _deliver(unsent, say)
    if problem is not None:
        say(f"{unsent.stage}: {problem}; kept in {folder.root}")
        return False
    if _goes_on(unsent):
        say(f"{unsent.stage}: was started again, its own process sends the rest  {folder.root}")
        return True
    if unsent.resumable and not _is_finished(folder):
        say(f"{unsent.stage}: everything has arrived; the journal stays, the run can be resumed  {folder.root}")
        return True
    shutil.rmtree(folder.root)
    sent = unsent.waiting + len(unsent.send_state.refused)
    say(f"{unsent.stage}: everything has arrived ({sent} events were sent); the journal is deleted")
    return True


def _goes_on(unsent: UnsentJournal) -> bool:
    """Whether the stage was started again since we looked: then its run lives, and its own process ends it."""
    journal = unsent.folder.journal
    if not journal.exists():
        return True  # it has even ended, and moved what it could not send
    events = sum(line.event is not None for line in read_lines(journal))
    return events > unsent.events or is_being_written(journal)


def _is_finished(folder: TrackingFolder) -> bool:
    """Whether nothing is left to do for the stage."""
    last = [line.event for line in read_lines(folder.journal)][-1:]
    return bool(last) and last[0] is not None and last[0]["kind"] == "end" and last[0]["status"] == "FINISHED"


def _delivered(sender: Sender) -> bool:
    """Whether all of it arrived; so many attempts without a step forward are enough."""
    tries, reached = 0, -1
    while tries < ATTEMPTS and not sender.met_slow_store:
        if sender.deliver():
            return True
        tries = tries + 1 if sender.send_state.next_number == reached else 1
        reached = sender.send_state.next_number
    return False


def _deliver(unsent: UnsentJournal, say: Callable[[str], None]) -> str | None:
    """Send one journal; what is wrong, or None."""
    from taehv.tracking.mlflow_writer import NotThereYetError
    from taehv.tracking.sender import OtherStoreError, Sender

    if unsent.events == 0:
        return None if not unsent.losses else "no line of the journal is readable"
    sender = Sender(
        unsent.folder,
        may_change_store=False,
        say=lambda message: say(f"{unsent.stage}: {message}"),
        attempts=ATTEMPTS,
    )
    refused_before = list(sender.send_state.refused)
    try:
        if not _delivered(sender):
            return f"MLflow does not take it: {sender.failure}"
        sender.retry_refused(refused_before)
        if not unsent.ended and not sender.send_state.complete and not _goes_on(unsent):
            sender.close_dead_run()
    except (OtherStoreError, NotThereYetError) as error:
        return str(error) if isinstance(error, OtherStoreError) else f"waiting for {error}"
    except Exception as error:
        return without_secrets(f"MLflow does not take it: {type(error).__name__}: {error}")[:300]
    if sender.send_state.refused:
        refused = "; ".join(dict.fromkeys(sender.send_state.refused.values()))
        return (
            f"the store refused, and everything else has arrived: {refused}. taehv track sync tries these again; "
            "delete the folder to give them up"
        )
    if sender.losses:
        return f"everything readable has arrived, but {'; '.join(sender.losses)}"
    return None
