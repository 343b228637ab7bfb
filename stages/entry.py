"""How every stage starts and ends."""

from taehv.errors import EXIT_FAILED
from taehv.errors import exit_with as run_stage

__all__ = ["EXIT_FAILED", "run_stage"]
