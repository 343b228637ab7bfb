"""The local journal of a run: the truth, written before any server hears of an event."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Event = dict[str, Any]
"""`seq` (from 0), `time` (milliseconds since 1970), `kind`, and what the kind needs."""


class Journal:
    """An append-only file, one JSON event per line.

    Reopened after a crash, it goes on where it ended. A metric point, (key, step), is kept once: a resumed run that
    repeats steps repeats their points, and they are dropped here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._drop_torn_line()
        self._points: set[tuple[str, int]] = set()
        self._next = 0
        for event in self.events():
            self._next = event["seq"] + 1
            if event["kind"] == "metrics":
                self._points.update((key, event["step"]) for key in event["values"])
        self._file = path.open("a", encoding="utf-8")

    def append(self, kind: str, **content: Any) -> Event:
        """Write one event and flush it to the operating system, so that it survives the process."""
        now = int(datetime.now(UTC).timestamp() * 1000)
        event: Event = {"seq": self._next, "time": now, "kind": kind, **content}
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()
        self._next += 1
        return event

    def append_metrics(self, step: int, values: Mapping[str, float]) -> Event | None:
        """The points that are new, as one event; None if there are none."""
        new = {key: float(value) for key, value in values.items() if (key, step) not in self._points}
        if not new:
            return None
        self._points.update((key, step) for key in new)
        return self.append("metrics", step=step, values=new)

    def events(self) -> Iterator[Event]:
        """All events written so far, in order."""
        if self.path.exists():
            with self.path.open(encoding="utf-8") as file:
                yield from (json.loads(line) for line in file)

    def keep(self) -> int:
        """Flush to disk; returns how many events there are."""
        os.fsync(self._file.fileno())
        return self._next

    def close(self) -> None:
        """Flush to disk and close."""
        os.fsync(self._file.fileno())
        self._file.close()

    def _drop_torn_line(self) -> None:
        """A process that was killed may have left half a line; that event never counted."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self.path.write_bytes(whole)
