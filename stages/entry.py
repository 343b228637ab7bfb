"""How every stage starts and ends. Imported before torch."""

import os

# GNU OpenMP's threads wait for each other by spinning. Beside another busy process a training step then takes 40 times
# as long: 13.6 s on 2 cores instead of 0.33 s. With this limit it takes 0.9 s, and alone as long as without
# (benchmarks/RESULTS.md).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import taehv.runtime.failpoints  # noqa: F401  refuses at once what a test asks for and there is not
from taehv.launch.dvc_yaml import check_output_places
from taehv.runtime import launched, signals
from taehv.runtime.errors import EXIT_FAILED, Interrupted, exit_with

__all__ = ["EXIT_FAILED", "run_stage"]


def run_stage(main: Callable[[], int], description: str | None = None) -> NoReturn:
    """Exit with what ``main`` returns, or as taehv/runtime/errors.py says for what it raises.

    Args:
        main: the stage.
        description: what ``--help`` says of it, for a stage that takes no arguments; None where ``main`` reads the
            command line itself.

    A request to stop raises Interrupted where the stage is, so that its tracked run ends, too; training, which has
    something to save, listens itself. A second request ends the process at once.
    """

    def stoppable() -> int:
        launched.forget_inherited(os.environ, keep_group=launched.launched_processes() is not None)
        if description is not None:
            read_no_arguments(description)
        check_output_places()
        with signals.listening(_interrupt, signals.end_at_once):
            return main()

    exit_with(stoppable)


def read_no_arguments(description: str, arguments: Sequence[str] | None = None) -> None:
    """Say what the stage does where ``--help`` asks for it, and refuse anything else: then nothing is run."""
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{Path(sys.argv[0]).stem}",
        description=description,
        epilog="It takes no arguments: params.yaml says what it computes, the profile (TAEHV_PROFILE) on which "
        "machine. DVC runs it: dvc repro, or python -m taehv.launch.",
    )
    parser.parse_args(arguments)


def _interrupt(name: str) -> None:
    raise Interrupted(name, signals.EXIT_CODES[name], "run the same command again to start this stage anew")
