"""Sends a journal's events to MLflow, in order, however often the store or this process fails.

After a crash, or a call that nobody answered, the same event is sent again. The store has it once: of points with the
same key, step, time and value MLflow's SQL stores keep one, and the times are the journal's; params, tags and files
replace what they repeat; runs, models and versions are looked up before they are made
(tests/tracking/test_sent_twice.py).
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Collection, Iterator

from taehv.evaluation.run_records import RecordError
from taehv.tracking.journal import Event, Line, read_lines
from taehv.tracking.mlflow_writer import MlflowWriter, NotThereYetError, RefusedError
from taehv.tracking.queries import METRIC_BATCH
from taehv.tracking.secrets import without_secrets
from taehv.tracking.send_state import SendState, TrackingFolder, read_send_state
from taehv.tracking.store_uri import StoreError, tracking_uri
from taehv.tracking.watchdog import exchange, was_too_slow

FIRST_WAIT_S = 1.0
ATTEMPTS_WHILE_STORE_ANSWERS = 10
"""Of one event that fails although the store answers: then it is set aside, and the rest goes on."""
NEVER_SET_ASIDE = ("begin", "end")
"""Unless the store says that they are invalid: without them a run is none."""


class OtherStoreError(Exception):
    """The journal belongs to another store than the one that is configured."""


class _BeginAgainError(Exception):
    """The store does not have what ``sent.json`` says; sending starts at the journal's first event."""


class Sender:
    """Delivers one journal. It holds how far it has come, never the events: memory does not grow with an outage."""

    def __init__(
        self,
        folder: TrackingFolder,
        *,
        may_change_store: bool,
        say: Callable[[str], None],
        attempts: int = ATTEMPTS_WHILE_STORE_ANSWERS,
    ) -> None:
        """Start where the last sender ended.

        Args:
            folder: whose journal.
            may_change_store: a living run follows MLFLOW_TRACKING_URI; what is left of a dead one does not.
            say: takes what a person must read.
            attempts: of one event that fails although the store answers.
        """
        self.folder = folder
        self.losses: list[str] = []
        """What is damaged in the journal, for a person."""
        self.failure: str | None = None
        """Why the store does not take events at the moment."""
        self.met_slow_store = False
        """Whether the last failure was that an answer did not come to its end in time."""
        self._say = say
        self._may_change_store = may_change_store
        self._attempts_of_an_event = attempts
        self._writer: MlflowWriter | None = None
        self._begin: Event | None = None
        self._last_time = 0
        self._arrived: Line | None = None
        """The last line whose event arrived; None at the beginning."""
        self._attempts = 0
        self.send_state = self._read_send_state()

    def wait_s(self, longest: float) -> float:
        """How long to wait before the next try: exponential, with jitter, so that senders do not come in step."""
        return min(longest, FIRST_WAIT_S * 2 ** min(self._attempts, 10)) * random.uniform(0.5, 1.0)

    def deliver(self) -> bool:
        """Send what is there now; True if all of it arrived, False if the store failed on the way.

        Raises:
            StoreError: the URI cannot be used at all.
            OtherStoreError: see ``may_change_store``.
            NotThereYetError: an event needs what another run's journal still has to bring.
        """
        try:
            self._send_all()
        except (StoreError, OtherStoreError, NotThereYetError):
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

    def retry_refused(self, numbers: Collection[int]) -> None:
        """Send these once more of what was set aside; what fails again stays there."""
        wanted, self._attempts_of_an_event = self.send_state.refused.keys() & set(numbers), 1
        for line in read_lines(self.folder.journal) if wanted else ():
            if line.event is not None and line.event["seq"] in wanted:
                del self.send_state.refused[line.event["seq"]]
                try:
                    self._send([line.event])
                except _BeginAgainError:
                    self._arrived = None
                    return self._send_all()
                self._note()
        return None

    def _read_send_state(self) -> SendState:
        try:
            return read_send_state(self.folder.send_state)
        except RecordError as error:
            self._say(f"{error}; everything is sent again, to the run that has this key")
            return SendState()

    def _send_all(self) -> None:
        while True:
            try:
                for batch, line in self._batches():
                    self._send(batch)
                    self.send_state.next_number, self._arrived = batch[-1]["seq"] + 1, line
                    self._attempts = 0
                    self._note()
                return
            except _BeginAgainError:
                self._arrived = None

    def _batches(self) -> Iterator[tuple[list[Event], Line]]:
        """New events and the last one's line: neighbouring metrics together, everything else alone."""
        batch: list[Event] = []
        points, last = 0, self._arrived
        for line in self._new_lines():
            event = line.event
            assert event is not None
            is_metrics = event["kind"] == "metrics"
            if batch and (not is_metrics or points + len(event["values"]) > METRIC_BATCH):
                assert last is not None
                yield batch, last
                batch, points = [], 0
            if not is_metrics:
                yield [event], line
                continue
            batch.append(event)
            points, last = points + len(event["values"]), line
        if batch and last is not None:
            yield batch, last

    def _new_lines(self) -> Iterator[Line]:
        """Undamaged lines whose events have not arrived."""
        self._flush_journal()
        for line in read_lines(self.folder.journal, after=self._arrived):
            if line.loss is not None and line.loss not in self.losses:
                self._report_loss(line.loss)
            event = line.event
            if event is None:
                continue
            self._last_time = int(event["time"])
            if event["kind"] == "begin":
                self._begin = event
            if event["seq"] >= self.send_state.next_number:
                yield line

    def _flush_journal(self) -> None:
        """MLflow never knows more than the disk does."""
        file = os.open(self.folder.journal, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)

    def _report_loss(self, loss: str) -> None:
        self.losses.append(loss)
        self._say(f"{self.folder.journal}: {loss}; everything else is sent")

    def _send(self, events: list[Event]) -> None:
        """One batch. Metrics that are refused are taken apart until the refused point is alone."""
        writer, first = self._connected(), events[0]
        try:
            with exchange(self._bytes_of_files(first)):
                if first["kind"] == "metrics":
                    writer.send_metrics(events)
                else:
                    writer.send(first)
        except (NotThereYetError, StoreError):
            raise
        except Exception as error:
            refused = isinstance(error, RefusedError)
            if not refused and (first["kind"] in NEVER_SET_ASIDE or self._attempts + 1 < self._attempts_of_an_event):
                raise
            self._begin_again_if_deleted(writer)
            if not refused:
                # It is this event's fault only if the store takes something else now.
                with exchange():
                    writer.write_key_again()
            if len(events) > 1:
                for event in events:
                    self._send([event])
            elif first["kind"] == "metrics" and len(first["values"]) > 1:
                for key, value in first["values"].items():
                    self._send([{**first, "values": {key: value}}])
            else:
                self._set_aside(first, error)
        if first["kind"] == "model":
            self.send_state.model_id = writer.model_id
        if first["kind"] in ("begin", "end"):
            self.send_state.complete = first["kind"] == "end"

    def _bytes_of_files(self, event: Event) -> int:
        files = [self.folder.root / file["file"] for file in event.get("files", [event]) if "file" in file]
        return sum(file.stat().st_size for file in files if file.is_file())

    def _begin_again_if_deleted(self, writer: MlflowWriter) -> None:
        """Asks the store; raises what it raises if it does not answer."""
        with exchange():
            gone = writer.run_is_gone()
        if gone:
            self._say(f"run {writer.run_id} is no longer in the store; it is made again from the journal")
            self._writer, self.send_state = None, SendState(store=self.send_state.store)
            raise _BeginAgainError

    def _set_aside(self, event: Event, error: Exception) -> None:
        said = str(error) if isinstance(error, RefusedError) else f"{type(error).__name__}: {error}"
        reason = without_secrets(said)[:300]
        self.send_state.refused[event["seq"]] = f"{event['kind']}: {reason}"
        self._say(f"event {event['seq']} ({event['kind']}) was not taken and is set aside: {reason}")

    def _connected(self) -> MlflowWriter:
        """The writer, with its run open.

        Raises:
            OtherStoreError: see ``may_change_store``.
            _BeginAgainError: the run is open from here on, but it is not the one that ``sent.json`` speaks of.
        """
        if self._writer is not None:
            return self._writer
        store = without_secrets(tracking_uri())
        if self.send_state.store not in (None, store):
            self._change_store(store)
        with exchange():
            writer = MlflowWriter(self.folder)
            how = writer.open_run(self._begin or self._lost_begin(), self.send_state.run_id)
        self._writer = writer
        if how == "continued":
            self._note_run(store, writer.run_id)
            return writer
        # Found by its key or just created: what ``sent.json`` says has arrived may not be in this run.
        self.send_state = SendState()
        self._note_run(store, writer.run_id)
        raise _BeginAgainError

    def _change_store(self, store: str) -> None:
        """Nothing of the run is in the new store."""
        before = self.send_state.store
        if not self._may_change_store:
            raise OtherStoreError(f"it was tracked at {before}; set MLFLOW_TRACKING_URI to that store")
        self._say(f"this run was tracked at {before} before; it is sent to {store} from its beginning")
        self.send_state = SendState()

    def _note_run(self, store: str, run_id: str) -> None:
        self.send_state.store, self.send_state.run_id = store, run_id
        self._note()

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
        self.met_slow_store = was_too_slow(error)
        self._attempts += 1
