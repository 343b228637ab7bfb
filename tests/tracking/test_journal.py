"""The journal is the truth: written first, never torn, each point once."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from taehv.tracking.journal import Journal


def test_an_event_is_in_the_file_as_soon_as_append_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    event = journal.append("tags", values={"stage": "a800_test"})
    (line,) = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert json.loads(line) == event


def test_events_are_numbered_on_over_a_reopen(tmp_path: Path) -> None:
    first = Journal(tmp_path / "journal.jsonl")
    first.append("tags", values={})
    first.close()
    second = Journal(tmp_path / "journal.jsonl")
    second.append("tags", values={})
    assert [event["seq"] for event in second.events()] == [0, 1]


def test_half_a_line_of_a_killed_process_never_counted(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).append("tags", values={"a": "1"})
    with path.open("a") as file:
        file.write('{"seq": 1, "kind": "met')
    journal = Journal(path)
    journal.append("tags", values={"b": "2"})
    assert [event["values"] for event in journal.events()] == [{"a": "1"}, {"b": "2"}]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=20), st.integers(0, 20))
def test_each_point_is_kept_once_wherever_the_journal_is_reopened(points: list[tuple[str, int]], cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        for part in (points[:cut], points[cut:]):
            journal = Journal(path)
            for key, step in part:
                journal.append_metrics(step, {key: float(step)})
            journal.close()
        kept = [(key, event["step"]) for event in Journal(path).events() for key in event["values"]]
    assert sorted(kept) == sorted(set(points))


def test_not_a_number_and_infinity_survive(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append_metrics(1, {"bad": float("nan"), "huge": float("inf")})
    (event,) = journal.events()
    assert event["values"]["bad"] != event["values"]["bad"]
    assert event["values"]["huge"] == float("inf")
