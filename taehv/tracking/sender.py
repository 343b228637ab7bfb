"""Sends a journal's events to MLflow, in order, however often the store or this process fails.

After a crash, or a call that nobody answered, the same event is sent again. The store has it once: of points with the
same key, step, time and value MLflow's SQL stores keep one, and the times are the journal's; params, tags and files
replace what they repeat; runs, models and versions are looked up before they are made
(tests/tracking/test_sent_twice.py).
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator

from taehv.evaluation.run_records import RecordError
from taehv.tracking.journal import Event, Line, read_lines
from taehv.tracking.mlflow_writer import MlflowWriter, RefusedError
from taehv.tracking.queries import METRIC_BATCH
from taehv.tracking.secrets import without_secrets
from taehv.tracking.send_state import SendState, TrackingFolder, read_send_state
from taehv.tracking.store import StoreError, tracking_uri
from taehv.tracking.watchdog import exchange

FIRST_WAIT_S = 1.0
ATTEMPTS = 10
"""Of one event that fails although the store answers: then it is set aside, and the rest goes on."""
ATTEMPTS_OF_SYNC = 3
"""The same where a person waits."""
NEVER_SET_ASIDE = ("begin", "end")
"""Unless the store says that they are invalid: without them a run is none."""


class _BeginAgainError(Exception):
    """The store does not have what ``sent.json`` says; sending starts at the journal's first event."""


class Sender:
    """Delivers one journal. It holds how far it has come, never the events: memory does not grow with an outage."""

    def __init__(self, folder: TrackingFolder, say: Callable[[str], None], *, stage_lives: bool) -> None:
        """Start where the last sender ended.

        Args:
            folder: whose journal.
            say: takes what a person must read.
            stage_lives: a living stage follows MLFLOW_TRACKING_URI to another store. What a dead one left does not; of
                that, what was set aside is tried once more.
        """
        self.folder = folder
        self.losses: list[str] = []
        """What is damaged in the journal, for a person."""
        self.failure: str | None = None
        """Why the store does not take events at the moment."""
        self.send_state = SendState()
        self._say = say
        self._stage_lives = stage_lives
        self._most_attempts = ATTEMPTS if stage_lives else ATTEMPTS_OF_SYNC
        self._attempts = 0
        self._writer: MlflowWriter | None = None
        self._begin: Event | None = None
        self._last_time = 0
        self._arrived: Line | None = None
        """The last line whose event arrived; None at the beginning."""
        try:
            self.send_state = read_send_state(folder.send_state)
        except RecordError as error:
            say(f"{error}; everything is sent again, to the run that has this key")
        self._once_more = set() if stage_lives else set(self.send_state.refused)
        self._refused_now: set[int] = set()
        """What was set aside of the batch that is being sent."""

    def wait_s(self, longest: float) -> float:
        """How long to wait before the next try: exponential, with jitter, so that senders do not come in step."""
        return min(longest, FIRST_WAIT_S * 2 ** min(self._attempts, 10)) * random.uniform(0.5, 1.0)

    def deliver(self) -> bool:
        """Send what is there now; True if all of it arrived, False if the store failed on the way.

        Raises:
            StoreError: the URI cannot be used at all, is not that of the journal's store (see ``stage_lives``), or an
                event needs what another run's journal still has to bring.
        """
        try:
            self._send_all()
        except StoreError:
            raise
        except Exception as error:
            # Whatever a store, its client library or the network can raise means: not now.
            self._note_failure(error)
            return False
        if self.failure is not None:
            self._say(f"MLflow answers again; all {self.send_state.next_number} events up to now have arrived")
        self.failure, self._attempts = None, 0
        return True

    def close_dead_run(self) -> None:
        """End a run whose process died without a word; everything else must have been delivered."""
        writer = self._connected()
        with exchange():
            writer.send({"kind": "tags", "values": {"interrupted": "the process ended without a word"}})
            writer.send({"kind": "end", "status": "KILLED", "time": self._last_time})
        self.send_state.complete = True
        self._note()

    def _send_all(self) -> None:
        while True:
            try:
                for batch, line in self._batches():
                    self._refused_now.clear()
                    self._send(batch)
                    for number in {event["seq"] for event in batch} - self._refused_now:
                        self.send_state.refused.pop(number, None)
                    following = batch[-1]["seq"] + 1
                    self.send_state.next_number = max(self.send_state.next_number, following)
                    self._arrived, self._attempts = line, 0
                    self._note()
                return
            except _BeginAgainError:
                self._arrived = None

    def _batches(self) -> Iterator[tuple[list[Event], Line]]:
        """Events to be sent, with the last one's line: neighbouring metrics together, everything else alone."""
        batch: list[Event] = []
        points, last = 0, Line(0, 0, 0)
        for line, event in self._lines_to_send():
            new = len(event["values"]) if event["kind"] == "metrics" else METRIC_BATCH
            if batch and points + new > METRIC_BATCH:
                yield batch, last
                batch, points = [], 0
            batch.append(event)
            points, last = points + new, line
        if batch:
            yield batch, last

    def _lines_to_send(self) -> Iterator[tuple[Line, Event]]:
        # MLflow never knows more than the disk does.
        with self.folder.journal.open("rb") as file:
            os.fsync(file)
        for line in read_lines(self.folder.journal, after=self._arrived):
            if line.loss is not None and line.loss not in self.losses:
                self.losses.append(line.loss)
                self._say(f"{self.folder.journal}: {line.loss}; everything else is sent")
            event = line.event
            if event is None:
                continue
            self._last_time = int(event["time"])
            if event["kind"] == "begin":
                self._begin = event
            if event["seq"] >= self.send_state.next_number or event["seq"] in self._once_more:
                yield line, event

    def _send(self, events: list[Event]) -> None:
        """One batch. Metrics that are refused are taken apart until the refused point is alone."""
        writer, first = self._connected(), events[0]
        try:
            with exchange(self._bytes_of_files(first)):
                if first["kind"] == "metrics":
                    writer.send_metrics(events)
                else:
                    writer.send(first)
        except StoreError:
            raise
        except Exception as error:
            self._check_it_is_the_events_fault(first, error, writer)
            parts = _parts(events)
            for part in parts:
                self._send(part)
            if not parts:
                self._set_aside(first, error)
        if first["kind"] == "model":
            self.send_state.model_id = writer.model_id
        if first["kind"] in ("begin", "end"):
            self.send_state.complete = first["kind"] == "end"

    def _check_it_is_the_events_fault(self, event: Event, error: Exception, writer: MlflowWriter) -> None:
        """Raise where it is, or may be, the store's: then the event is sent again."""
        refused = isinstance(error, RefusedError)
        most = 1 if event["seq"] in self._once_more else self._most_attempts
        if not refused and (event["kind"] in NEVER_SET_ASIDE or self._attempts + 1 < most):
            raise error
        with exchange():
            gone = writer.run_is_gone()
            if not gone and not refused:
                writer.write_key_again()
        if gone:
            self._say(f"run {writer.run_id} is no longer in the store; it is made again from the journal")
            self._writer, self.send_state = None, SendState(store=self.send_state.store)
            raise _BeginAgainError

    def _set_aside(self, event: Event, error: Exception) -> None:
        said = str(error) if isinstance(error, RefusedError) else f"{type(error).__name__}: {error}"
        reason = without_secrets(said)[:300]
        self._refused_now.add(event["seq"])
        self.send_state.refused[event["seq"]] = f"{event['kind']}: {reason}"
        self._say(f"event {event['seq']} ({event['kind']}) was not taken and is set aside: {reason}")

    def _bytes_of_files(self, event: Event) -> int:
        files = [self.folder.root / file["file"] for file in event.get("files", [event]) if "file" in file]
        return sum(file.stat().st_size for file in files if file.is_file())

    def _connected(self) -> MlflowWriter:
        """The writer, with its run open.

        Raises:
            StoreError: as ``deliver``.
            _BeginAgainError: the run is open from here on, but it is not the one that ``sent.json`` speaks of.
        """
        if self._writer is not None:
            return self._writer
        store, before = without_secrets(tracking_uri()), self.send_state.store
        if before not in (None, store):
            if not self._stage_lives:
                raise StoreError(f"it was tracked at {before}; set MLFLOW_TRACKING_URI to that store")
            self._say(f"this run was tracked at {before} before; it is sent to {store} from its beginning")
            self.send_state = SendState()
        with exchange():
            writer = MlflowWriter(self.folder)
            is_known = writer.open_run(self._begin or self._lost_begin(), self.send_state.run_id)
        self._writer = writer
        if not is_known:
            # Found by its key or just created: what ``sent.json`` says has arrived may not be in this run.
            self.send_state = SendState()
        self.send_state.store, self.send_state.run_id = store, writer.run_id
        self._note()
        if not is_known:
            raise _BeginAgainError
        return writer

    def _lost_begin(self) -> Event:
        """Stands for a damaged `begin`: the run is still worth having."""
        return {
            "key": f"lost-{self.folder.root.name}",
            "name": self.folder.root.parent.name,
            "time": self._last_time,
            "parent_run_id": None,
            "tags": {},
        }

    def _note(self) -> None:
        self.send_state.write(self.folder.send_state)

    def _note_failure(self, error: Exception) -> None:
        reason = without_secrets(f"{type(error).__name__}: {error}").replace("\n", " ")[:300]
        if self.failure is None:
            uri = without_secrets(tracking_uri())
            self._say(
                f"MLflow at {uri} does not work; the stage goes on, and everything is kept in {self.folder.journal} "
                f"and sent when it works again\n  {reason}"
            )
        self.failure = reason
        self._attempts += 1


def _parts(events: list[Event]) -> list[list[Event]]:
    """Smaller batches of the same points; none of what cannot be taken apart."""
    (first, *others) = events
    if others:
        return [[event] for event in events]
    if first["kind"] != "metrics" or len(first["values"]) == 1:
        return []
    return [[{**first, "values": {key: value}}] for key, value in first["values"].items()]
