"""What a person sees of a run: train.log, the same lines on the terminal, and a progress bar."""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from taehv.runtime import atomic_files

__all__ = ["logging_redirect_tqdm", "progress_bar", "start_logging"]

SECONDS_BETWEEN_LINES_IN_A_LOG = 30.0


def start_logging(file: Path, *, main_process: bool) -> logging.Logger:
    """The ``taehv`` logger: to the terminal and, appended, to ``file``; other processes only warn on the terminal."""
    logger = logging.getLogger("taehv")
    logger.handlers.clear()
    logger.propagate = False
    logger.setLevel(logging.INFO if main_process else logging.WARNING)
    terminal = logging.StreamHandler(sys.stdout)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(terminal)
    if main_process:
        file.parent.mkdir(parents=True, exist_ok=True)
        _detach(file)
        to_file = logging.FileHandler(file, encoding="utf-8")
        to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(to_file)
    return logger


def _detach(file: Path) -> None:
    """Make ``file`` a file of its own again.

    An execution that was killed while it published left a link to it among DVC's outputs, from where `dvc commit` may
    have linked it into the cache. What is there must not grow.
    """
    if file.exists() and file.stat().st_nlink > 1:
        with atomic_files.replacing(file) as copy:
            shutil.copyfile(file, copy)


def progress_bar(stage: str, done: int, total: int, *, enabled: bool) -> tqdm[NoReturn]:
    """Steps with loss, PSNR and clips/s; on a terminal it moves, in a log file it prints a line now and then."""
    interval = 0.2 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES_IN_A_LOG
    return tqdm(
        total=total,
        initial=done,
        desc=stage,
        unit="step",
        mininterval=interval,
        maxinterval=interval,
        disable=not enabled,
    )
