"""How every stage starts and ends: errors that the user can mend become one message and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from taehv.errors import UserError
from taehv.strict_config import ConfigError

EXIT_FAILED = 1
EXIT_BAD_CONFIG = 2


def run_stage(main: Callable[[], int]) -> NoReturn:
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
