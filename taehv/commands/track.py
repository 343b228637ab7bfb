"""`taehv track`: what tracking has not been able to send yet."""

from __future__ import annotations

from taehv.tracking.secrets import hide_secrets_in_output
from taehv.tracking.store import check_uri
from taehv.tracking.sync import journals, sync

EXIT_LEFT = 1
NOTHING = "nothing is left to send"


def status() -> int:
    """List the journals that are still here."""
    lefts = journals()
    for left in lefts:
        print(left.describe())
    if not lefts:
        print(NOTHING)
    return 0


def replay(*, dry_run: bool) -> int:
    """Send what is left; exit code 1 if something stays behind.

    Raises:
        StoreError: MLFLOW_TRACKING_URI cannot be used at all.
    """
    check_uri()
    hide_secrets_in_output()
    lefts = journals()
    if not lefts:
        print(NOTHING)
    if dry_run:
        for left in lefts:
            print(f"would {'leave alone' if left.running else 'send'}: {left.describe()}")
        return 0
    return 0 if sync(lefts, lambda message: print(message, flush=True)) else EXIT_LEFT
