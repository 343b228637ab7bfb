"""Errors that are the user's to mend."""


class UserError(Exception):
    """Something outside the program is wrong. The message says what, and what to do next; no traceback is shown."""
