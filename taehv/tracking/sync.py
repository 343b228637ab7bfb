"""`taehv track`: send what finished, failed and killed runs could not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filelock import AcquireReturnProxy, FileLock, Timeout

from taehv.runtime.paths import main_repository
from taehv.tracking.journal import Event, is_being_written, read_lines
from taehv.tracking.secrets import without_secrets
from taehv.tracking.send_state import SendState, TrackingFolder, send_state_if_readable, tracking_folders
from taehv.tracking.store import StoreError

if TYPE_CHECKING:
    from taehv.tracking.sender import Sender

ATTEMPTS = 3
"""Of reaching the store."""


@dataclass(frozen=True)
class UnsentJournal:
    """One journal that is still here."""

    folder: TrackingFolder
    begun: int
    """Milliseconds since 1970."""
    running: bool
    """Whether its stage is alive."""
    events: int
    waiting: int
    """Events that have not arrived."""
    points: int
    """Metric points among them."""
    losses: int
    last: Event | None
    """None where it cannot be read."""
    send_state: SendState

    @property
    def stage(self) -> str:
        return self.folder.root.relative_to(main_repository() / ".work").parts[0]

    @property
    def ended(self) -> bool:
        return self.last is not None and self.last["kind"] == "end"

    @property
    def must_stay(self) -> bool:
        """Whether the stage can go on with it: it knows which points there were."""
        is_finished = self.last is not None and self.last.get("status") == "FINISHED"
        return self.folder.root.name == "tracking" and not is_finished

    def describe(self) -> str:
        """One line for a person."""
        state = "running" if self.running else "ended" if self.ended else "its process is gone"
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
    last = None
    for line in read_lines(folder.journal):
        last = line.event
        losses += line.loss is not None
        if last is None:
            continue
        begun = begun or int(last["time"])
        events += 1
        if last["seq"] >= send_state.next_number:
            waiting += 1
            points += len(last["values"]) if last["kind"] == "metrics" else 0
    running = is_being_written(folder.journal)
    return UnsentJournal(folder, begun, running, events, waiting, points, losses, last, send_state)


def sync(unsent_journals: Iterable[UnsentJournal], say: Callable[[str], None]) -> bool:
    """Send everything that no living stage sends; True if nothing is left that could be sent.

    A journal is deleted when all of it has arrived and nothing can continue it. One that is damaged, or of which the
    store refuses something, is kept and named.
    """
    arrived = [_sync_one(unsent, say) for unsent in unsent_journals]
    return all(arrived)


def _sync_one(unsent: UnsentJournal, say: Callable[[str], None]) -> bool:
    root = unsent.folder.root
    if unsent.running:
        say(f"{unsent.stage}: running, its own process sends it  {root}")
        return True
    with contextlib.suppress(FileNotFoundError), _wait_for_other_senders(unsent, say):
        if unsent.folder.journal.exists():
            return _send_and_delete(unsent, say)
    say(f"{unsent.stage}: the journal is gone, its own process or another sync came first  {root}")
    return True


def _wait_for_other_senders(unsent: UnsentJournal, say: Callable[[str], None]) -> AcquireReturnProxy[FileLock]:
    """A dead stage's own sender goes on as long as the store answers, and is slow to notice that it does not."""
    lock = unsent.folder.sender_lock()
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        say(f"{unsent.stage}: waiting for another process that is sending it  {unsent.folder.root}")
        return lock.acquire()


def _send_and_delete(unsent: UnsentJournal, say: Callable[[str], None]) -> bool:
    folder, problem = unsent.folder, _deliver(unsent, say)
    if problem is not None:
        say(f"{unsent.stage}: {problem}; kept in {folder.root}")
        return False
    if _goes_on(unsent):
        say(f"{unsent.stage}: was started again, its own process sends the rest  {folder.root}")
    elif unsent.must_stay:
        say(f"{unsent.stage}: everything has arrived; the journal stays, the run can be resumed  {folder.root}")
    else:
        folder.delete()
        sent = unsent.waiting + len(unsent.send_state.refused)
        say(f"{unsent.stage}: everything has arrived ({sent} events were sent); the journal is deleted")
    return True


def _goes_on(unsent: UnsentJournal) -> bool:
    """Whether the stage was started again since we looked: then its run lives, and its own process ends it."""
    now = _look_at(unsent.folder)
    return now.running or now.events > unsent.events


def _deliver(unsent: UnsentJournal, say: Callable[[str], None]) -> str | None:
    """Send one journal; what is wrong, or None."""
    from taehv.tracking.sender import Sender

    if unsent.events == 0:
        return "no line of the journal is readable" if unsent.losses else None
    sender = Sender(unsent.folder, lambda message: say(f"{unsent.stage}: {message}"), stage_lives=False)
    try:
        if not _delivered(sender):
            return f"MLflow does not take it: {sender.failure}"
        if not unsent.ended and not sender.send_state.complete and not _goes_on(unsent):
            sender.close_dead_run()
    except StoreError as error:
        return str(error)
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


def _delivered(sender: Sender) -> bool:
    """Whether all of it arrived; so many attempts without a step forward are enough."""
    tries, reached = 0, -1
    while tries < ATTEMPTS:
        if sender.deliver():
            return True
        tries = tries + 1 if sender.send_state.next_number == reached else 1
        reached = sender.send_state.next_number
    return False
