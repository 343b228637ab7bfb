"""Errors that are the user's to mend, and how a program ends with one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from taehv.strict_config import ConfigError

EXIT_FAILED = 1
EXIT_BAD_CONFIG = 2


class UserError(Exception):
    """Something outside the program is wrong. The message says what, and what to do next; no traceback is shown."""


class Interrupted(Exception):  # noqa: N818 - it is not an error
    """The program was asked to stop, and left everything as a later start needs it. The message says how to go on."""

    def __init__(self, reason: str, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """The signal's name, or what else asked."""
        self.exit_code = exit_code


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Exit with what ``main`` returns; 2 for a wrong configuration, 1 for another error the user can mend.

    After an interruption: 128 plus the signal's number, as shells expect.
    """
    try:
        code = main()
    except ConfigError as error:
        print(error, file=sys.stderr)
        code = EXIT_BAD_CONFIG
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = EXIT_FAILED
    except Interrupted as stop:
        print(f"stopped by {stop.reason}: {stop}", file=sys.stderr)
        code = stop.exit_code
    sys.exit(code)
