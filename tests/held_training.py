"""A training process held at its first checkpoint, however fast or slow the machine is."""

from __future__ import annotations

import os
import signal
import time

from tests_support import Project

MOMENT_SECONDS = 0.1


def save_every_step(project: Project) -> None:
    """Rolling checkpoints as often as possible."""
    profile = project.root / "profiles/local.yaml"
    profile.write_text(profile.read_text().replace("checkpoint_every: 100", "checkpoint_every: 1"))


def wait_for_trainer(project: Project) -> int:
    """The process id of the one that trains, as its lock says it."""
    while True:
        for lock in project.root.glob(".work/a800_test/*/lock"):
            if holder := lock.read_text().split():
                return int(holder[1])
        time.sleep(0.02)


def hold_at_first_checkpoint(project: Project) -> int:
    """Let the trainer run by moments until it has a checkpoint; it is stopped then. Returns its process id."""
    trainer = wait_for_trainer(project)
    while True:
        os.kill(trainer, signal.SIGSTOP)
        if list(project.root.glob(".work/a800_test/*/rolling/step-*")):
            return trainer
        os.kill(trainer, signal.SIGCONT)
        time.sleep(MOMENT_SECONDS)
