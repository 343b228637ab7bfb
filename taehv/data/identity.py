"""What says that a file's content is the one that was listed: its sha256, or that of a sample of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

from taehv.runtime.hashing import sha256_of_file

Identity = Literal["sha256", "sampled"]
"""``sha256`` is of the whole file. ``sampled`` is of its size and its first and last MiB: what is changed between them,
at the same size, goes unnoticed."""
IDENTITIES: tuple[Identity, ...] = get_args(Identity)

_SAMPLE_BYTES = 2**20


def content_digest(file: Path, identity: Identity) -> str:
    """64 hexadecimal digits; those of one identity never equal those of the other, whatever the file."""
    return _DIGESTS[identity](file)


def _sampled(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(_SAMPLE_BYTES)
        size = file.seek(0, 2)
        file.seek(max(size - _SAMPLE_BYTES, 0))
        end = file.read(_SAMPLE_BYTES)
    # The first words make it a hash of another thing than a file's content, also where the samples are all of it.
    return hashlib.sha256(b"taehv sampled identity 1\n%d\n" % size + start + end).hexdigest()


_DIGESTS: Mapping[Identity, Callable[[Path], str]] = {"sha256": sha256_of_file, "sampled": _sampled}
