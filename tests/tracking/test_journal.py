"""The journal is a file that a crash cannot spoil, and that does not lie."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.journal_damage import mutate
from support.project import REPOSITORY

from taehv.tracking.journal import Journal, JournalError, is_being_written, read_lines


def test_an_event_is_in_the_file_as_one_json_line_before_append_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    event = journal.append("tags", values={"stage": "a800_test"})
    (line,) = (tmp_path / "journal.jsonl").read_text().splitlines()
    read = json.loads(line)
    assert len(read.pop("crc")) == 8
    assert read == event


def test_events_are_numbered_on_over_a_reopen(tmp_path: Path) -> None:
    first = Journal(tmp_path / "journal.jsonl")
    first.append("tags", values={})
    first.close()
    second = Journal(tmp_path / "journal.jsonl")
    second.append("tags", values={})
    assert [event["seq"] for event in second.events()] == [0, 1]


def test_half_a_line_of_a_killed_process_never_counted(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first = Journal(path)
    first.append("tags", values={"a": "1"})
    first.close()
    with path.open("a") as file:
        file.write('{"seq": 1, "kind": "met')
    assert [line.event is not None for line in read_lines(path)] == [True]
    journal = Journal(path)
    journal.append("tags", values={"b": "2"})
    assert [event["values"] for event in journal.events()] == [{"a": "1"}, {"b": "2"}]
    assert journal.losses == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=20), st.integers(0, 20))
def test_each_point_is_kept_once_wherever_the_journal_is_reopened(points: list[tuple[str, int]], cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        for part in (points[:cut], points[cut:]):
            journal = Journal(path)
            for key, step in part:
                journal.append_metrics(step, {key: float(step)})
            journal.close()
        kept = [(key, event["step"]) for event in journal.events() for key in event["values"]]
    assert sorted(kept) == sorted(set(points))


def test_not_a_number_and_infinity_survive(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append_metrics(1, {"bad": float("nan"), "huge": float("inf")})
    (event,) = journal.events()
    assert event["values"]["bad"] != event["values"]["bad"]
    assert event["values"]["huge"] == float("inf")


def test_two_processes_cannot_write_the_same_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    program = (
        f"from pathlib import Path; from taehv.tracking.journal import Journal\nj = Journal(Path({str(path)!r}))\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program + "print('open', flush=True); import time; time.sleep(600)"],
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    assert other.stdout is not None
    other.stdout.readline()
    assert is_being_written(path)
    with pytest.raises(JournalError, match="another process"):
        Journal(path)
    other.kill()
    other.wait()
    assert not is_being_written(path)
    Journal(path).append("tags", values={})


def test_a_file_system_that_takes_no_more_is_a_clear_error_and_earlier_lines_stay(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    journal = Journal(path)
    try:
        # The kernel writes a part of the line and then refuses, as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
        with pytest.raises(JournalError, match="Make room"):
            for step in range(1000):
                journal.append_metrics(step, {"train/loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes().endswith(b"\n")
    kept = [event["step"] for event in journal.events()]
    assert kept == list(range(len(kept)))
    # Room was made: the point that did not fit is not taken for one that is there.
    journal.append_metrics(len(kept), {"train/loss": 0.5})
    assert [event["step"] for event in journal.events()] == [*kept, len(kept)]


@pytest.mark.parametrize("seed", [*range(40), *(pytest.param(s, marks=pytest.mark.soak) for s in range(40, 400))])
def test_damage_is_reported_and_alters_nothing(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for step in range(12):
        journal.append_metrics(step, {"train/loss": 1 / (step + 1), "val/psnr": 20.0 + step})
    journal.close()
    written = list(journal.events())
    chance = random.Random(seed)
    path.write_bytes(mutate(path.read_bytes(), chance))
    reopened = Journal(path, first_number=12)
    read = list(reopened.events())
    assert all(event in written for event in read)
    assert len({event["seq"] for event in read}) == len(read)
    lost = [event for event in written if event not in read]
    cut_off = lost == written[len(written) - len(lost) :]
    assert reopened.losses or cut_off
    new = reopened.append("tags", values={"after": "damage"})
    assert new["seq"] >= 12
    assert list(reopened.events()) == [*read, new]
