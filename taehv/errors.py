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


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Exit with what ``main`` returns; 2 for a wrong configuration, 1 for another error the user can mend."""
    try:
        code = main()
    except ConfigError as error:
        print(error, file=sys.stderr)
        code = EXIT_BAD_CONFIG
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = EXIT_FAILED
    sys.exit(code)
