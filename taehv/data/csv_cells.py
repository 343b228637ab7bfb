"""Names in CSV files: any name comes back as it was, and is no program to a spreadsheet, where a cell begins with =.

The first characters are those that OWASP lists under "CSV Injection", with the full-width forms that spreadsheets take
for the same.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_HERE = "./"


def path_cell(path: str) -> str:
    """The same file's path, beginning with nothing that a spreadsheet computes."""
    return f"{_HERE}{path}" if path.startswith(FORMULA_STARTS) else path


def path_of_cell(cell: str) -> str:
    """The inverse of ``path_cell``."""
    path = cell.removeprefix(_HERE)
    return path if path.startswith(FORMULA_STARTS) else cell


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """The rows as CSV that Python's reader takes back, whatever is in the cells."""
    text = io.StringIO()
    plain, quoted = (csv.writer(text, lineterminator="\n", quoting=how) for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    for row in rows:
        # Python's writer does not quote a carriage return by itself, and its reader takes a bare one for a new line.
        (quoted if any("\r" in str(cell) for cell in row) else plain).writerow(row)
    return text.getvalue()


def text_cell(text: str) -> str:
    """A text, marked as one where a spreadsheet would compute it."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
