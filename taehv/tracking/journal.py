"""The local journal of a run: the truth, written before any server hears of an event."""

from __future__ import annotations

import bisect
import json
import os
import re
import threading
import time
import zlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from taehv.runtime.errors import UserError
from taehv.tracking.secrets import hide_secrets

Event = dict[str, Any]
"""`seq` (from 0), `time` (milliseconds since 1970), `kind`, and what the kind needs."""

LOCK_ATTEMPTS = 6

_CHECKSUM = re.compile(rb', "crc": "([0-9a-f]{8})"}\Z')


class JournalError(UserError):
    """The journal cannot be written. What it holds stays readable, and the run can be resumed."""


class Journal:
    """An append-only file, one JSON event with its checksum per line. One process writes it at a time.

    Reopened after a crash, it goes on where it ended. A metric point, (key, step), is kept once: a resumed run that
    repeats steps repeats their points, and they are dropped here. Secrets of the tracking store are hidden before
    anything is written. Threads may append at the same time.
    """

    def __init__(self, path: Path, first_number: int = 0) -> None:
        """Open or create.

        Args:
            path: the file.
            first_number: new events get at least this number: what was sent is known by it, and a damaged journal may
                have lost its last ones.

        Raises:
            JournalError: another process has it open for writing, or the file system refuses.
        """
        self.path = path
        self.losses: list[str] = []
        """What is damaged in an earlier execution's part, for a person."""
        self._points: dict[str, array[int]] = {}
        self._next = first_number
        self._threads = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise self._refused(error) from error
        if not _lock(self._file):
            os.close(self._file)
            raise JournalError(f"another process is writing {path}; wait for it, or stop it")
        self._continue()

    def append(self, kind: str, **content: Any) -> Event:
        """Write one event and hand it to the operating system, so that it survives the process.

        Raises:
            JournalError: it could not be written whole (a full disk); nothing of it stays in the file.
        """
        return self._append(kind, hide_secrets(content))

    def append_metrics(self, step: int, values: Mapping[str, float]) -> Event | None:
        """The points that are new, as one event; None if there are none.

        Raises:
            JournalError: as ``append``.
        """
        with self._threads:
            new = {key: float(value) for key, value in values.items() if not self._has(key, step)}
        if not new:
            return None
        event = self._append("metrics", {"step": step, "values": new})
        with self._threads:
            for key in new:
                self._remember(key, step)
        return event

    def last_step(self, key: str) -> int | None:
        """The highest step of a metric."""
        steps = self._points.get(key)
        return steps[-1] if steps else None

    def events(self) -> Iterator[Event]:
        """All undamaged events written so far, in order."""
        return (line.event for line in read_lines(self.path) if line.event is not None)

    def keep(self) -> int:
        """Flush to disk, so that what was appended survives a power cut, too; returns how many events there are.

        Raises:
            JournalError: the disk refuses.
        """
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._refused(error) from error
        return self._next

    def close(self) -> None:
        """Flush to disk, close, and let others write."""
        try:
            self.keep()
        finally:
            os.close(self._file)

    def _append(self, kind: str, content: Mapping[str, Any]) -> Event:
        with self._threads:
            now = int(datetime.now(UTC).timestamp() * 1000)
            event: Event = {"seq": self._next, "time": now, "kind": kind, **content}
            line = encode(event)
            size = os.fstat(self._file).st_size
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._file, line[written:])
            except OSError as error:
                os.ftruncate(self._file, size)
                raise self._refused(error) from error
            self._next += 1
        return event

    def _continue(self) -> None:
        """Drop half a line that a killed process left: that event never counted. Learn what the rest holds."""
        whole = 0
        with self.path.open("rb") as file:
            for raw in file:
                whole += len(raw) if raw.endswith(b"\n") else 0
        if whole < os.fstat(self._file).st_size:
            os.ftruncate(self._file, whole)
        for line in read_lines(self.path):
            event = line.event
            if line.loss is not None:
                self.losses.append(line.loss)
            if event is None:
                continue
            self._next = max(self._next, event["seq"] + 1)
            if event["kind"] == "metrics":
                for key in event["values"]:
                    self._remember(key, event["step"])

    def _has(self, key: str, step: int) -> bool:
        steps = self._points.get(key)
        if not steps or step > steps[-1]:
            return False
        return steps[bisect.bisect_left(steps, step)] == step

    def _remember(self, key: str, step: int) -> None:
        if not self._has(key, step):
            # Eight bytes a point: a long run has millions.
            bisect.insort(self._points.setdefault(key, array("q")), step)

    def _refused(self, error: OSError) -> JournalError:
        return JournalError(
            f"the tracking journal {self.path} cannot be written: {os.strerror(error.errno or 0)}. Everything up to "
            "here is in it. Make room or fix the permissions, and start the same command again: the run goes on from "
            "its last checkpoint"
        )


def encode(event: Event) -> bytes:
    """One line: the event as JSON, whose last member is a CRC-32 of everything before it."""
    body = json.dumps(event)[:-1].encode()
    return body + b', "crc": "%08x"}\n' % zlib.crc32(body)


def _event_or_none(line: bytes) -> Event | None:
    """The event of one line; None where it is not what ``encode`` wrote."""
    stripped = line.removesuffix(b"\n")
    checksum = _CHECKSUM.search(stripped)
    body = stripped[: checksum.start()] if checksum else b""
    if checksum is None or zlib.crc32(body) != int(checksum[1], 16):
        return None
    event: Event = json.loads(body + b"}")
    return event


@dataclass(frozen=True)
class Line:
    """One whole line of a journal."""

    number: int
    """From 1."""
    end: int
    """The byte after it."""
    following: int
    """The number that the next event must have."""
    event: Event | None = None
    """None: it is damaged."""
    loss: str | None = None
    """What a person must be told."""


def read_lines(path: Path, after: Line | None = None) -> Iterator[Line]:
    """The whole lines, from the beginning or after one that was read; half a line at the end is not there yet.

    Events whose numbers do not rise (a copied line) count as damage.
    """
    line = after or Line(0, 0, 0)
    with path.open("rb") as file:
        file.seek(line.end)
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            before, number, end = line, line.number + 1, line.end + len(raw)
            event = _event_or_none(raw)
            if event is None or event["seq"] < before.following:
                line = Line(number, end, before.following, None, f"line {number} is damaged and its event is lost")
            else:
                missing = event["seq"] - before.following
                # Where the line before is damaged, that has been said.
                is_loss = missing and (before.event is not None or before.number == 0)
                loss = f"{missing} event(s) before line {number} are missing" if is_loss else None
                line = Line(number, end, event["seq"] + 1, event, loss)
            yield line


def is_being_written(path: Path) -> bool:
    """Whether a living process has the journal open for writing."""
    with path.open("r+b") as file:
        return not _lock(file.fileno())


def _lock(journal: int) -> bool:
    """Lock the open file; False where another process has it. Whoever only looks has it, too, but for a moment."""
    for attempt in range(LOCK_ATTEMPTS):
        time.sleep(0.01 * attempt)
        if lock_descriptor(journal, blocking=False):
            return True
    return False
