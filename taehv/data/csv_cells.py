"""Names in CSV files that somebody may open with a spreadsheet, where a cell that begins with = is a program.

The first characters are those that OWASP lists under "CSV Injection", with the full-width forms that spreadsheets take
for the same.
"""

from __future__ import annotations

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_HERE = "./"


def path_cell(path: str) -> str:
    """The same file's path, beginning with nothing that a spreadsheet computes."""
    return f"{_HERE}{path}" if path.startswith(FORMULA_STARTS) else path


def path_of_cell(cell: str) -> str:
    """The inverse of ``path_cell``."""
    path = cell.removeprefix(_HERE)
    return path if path.startswith(FORMULA_STARTS) else cell


def text_cell(text: str) -> str:
    """A text, marked as one where a spreadsheet would compute it."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
