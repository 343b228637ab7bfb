"""Metric names that every MLflow store takes, and that keep different metrics apart."""

from __future__ import annotations

import hashlib
import re

LONGEST_NAME = 250
"""MLflow's limit (MAX_ENTITY_KEY_LENGTH of mlflow.utils.validation)."""
LONGEST_PART = 100
"""Of what stands between two slashes, so that `test/<stage>/<codec>/by_source/<video>/<metric>` stays whole."""
HASH_DIGITS = 16

_REFUSED = re.compile(r"[^A-Za-z0-9_\-. ]")
_HASHED = re.compile(rf".*-[0-9a-f]{{{HASH_DIGITS}}}", re.DOTALL)


def metric_name(key: str) -> str:
    """The name under which MLflow keeps a metric; the same for the same key, and different for different ones.

    A key may hold a video's file name. What a store does not take of it is replaced, what is too long is cut out of its
    middle, and a hash of the original tells it from others that would look the same then. The parts between slashes are
    treated one by one, so that a video has one name in all of its metrics. Keys of ASCII letters and digits stay.

    Names hold ASCII letters, digits, `_`, `-`, `.`, space and `/`, and have at most ``LONGEST_NAME`` characters.
    """
    name = "/".join(map(_part, key.split("/")))
    return name if len(name) <= LONGEST_NAME else _marked(name, key, LONGEST_NAME)


def _part(part: str) -> str:
    readable = _REFUSED.sub("_", part)
    # A store reads a name like a path, and MySQL ignores a space at the end.
    is_usual = readable == part and part.strip(" ") == part and part not in ("", ".", "..")
    # What looks like one of our own marked names is marked, too, or two keys could get it.
    if is_usual and len(part) <= LONGEST_PART and not _HASHED.fullmatch(part):
        return part
    return _marked(readable, part, LONGEST_PART)


def _marked(readable: str, original: str, longest: int) -> str:
    """With the original's hash at the end; the beginning and the end of what is too long tell most."""
    digest = hashlib.sha256(original.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_DIGITS]
    room = longest - HASH_DIGITS - 1
    if len(readable) > room:
        end = room // 2 - 1
        readable = f"{readable[: room - end - 3]}...{readable[-end:]}"
    return f"{readable}-{digest}"
