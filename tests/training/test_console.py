"""train.log."""

from __future__ import annotations

import os
from pathlib import Path

from taehv.training.console import start_logging


def log_a_line(file: Path, message: str) -> None:
    logger = start_logging(file, main_process=True)
    logger.info(message)
    for handler in logger.handlers:
        handler.close()
    logger.handlers.clear()


def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    log_a_line(tmp_path / "train.log", "first")
    log_a_line(tmp_path / "train.log", "second")
    assert [line.split()[-1] for line in (tmp_path / "train.log").read_text().splitlines()] == ["first", "second"]


def test_a_log_that_was_published_does_not_grow_when_its_training_is_resumed(tmp_path: Path) -> None:
    work, published = tmp_path / "work.log", tmp_path / "published.log"
    log_a_line(work, "first")
    os.link(work, published)
    published.chmod(0o444)
    log_a_line(work, "second")
    assert "second" not in published.read_text()
    assert [line.split()[-1] for line in work.read_text().splitlines()] == ["first", "second"]
