"""What must never be written anywhere: the secrets of the tracking store."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO, TypeVar
from urllib.parse import unquote, urlsplit

Value = TypeVar("Value")

HIDDEN = "***"
SHORTEST = 6
"""A shorter value is only hidden where its place says that it is one: anywhere else it may be an ordinary word."""
URI_VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")

_USER_INFO = re.compile(r"(?<=://)[^/?#\s'\"]*@")
_QUERY_VALUE = re.compile(r"(?<=[?&])([\w.\-]+)=[^&#\s'\"]+")
_NAME = r"[\w\-]*(?:password|passwd|token|secret|api[_-]?key|credential)[\w\-]*"
_ASSIGNMENT = re.compile(rf"({_NAME})(\s*[=:]\s*)[^\s,;&'\"]+", re.IGNORECASE)
_OPTION = re.compile(rf"--?{_NAME}", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """The text as it may be shown and kept: no user info and query values of URIs, no known secret, no assigned one."""
    for secret in _known():
        text = text.replace(secret, HIDDEN)
    return without_password(_ASSIGNMENT.sub(rf"\1\2{HIDDEN}", text))


def without_password(uri: str) -> str:
    """The URI as it may be shown. It still tells two stores apart."""
    return _QUERY_VALUE.sub(rf"\1={HIDDEN}", _USER_INFO.sub(f"{HIDDEN}@", uri))


def hide_secrets(value: Value) -> Value:
    """``without_secrets`` for every string inside mappings and lists. What follows an option like --token goes too."""
    hidden: Any = value
    if isinstance(value, str):
        hidden = without_secrets(value)
    elif isinstance(value, Mapping):
        hidden = {without_secrets(str(key)): hide_secrets(inner) for key, inner in value.items()}
    elif isinstance(value, list | tuple):
        after_option = [False, *(isinstance(item, str) and bool(_OPTION.fullmatch(item)) for item in value)]
        hidden = [
            HIDDEN if after and isinstance(item, str) else hide_secrets(item)
            for item, after in zip(value, after_option, strict=False)
        ]
    return hidden


class HidingStream(io.TextIOBase):
    """Whatever a library prints goes through here, so that no secret reaches a log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write it without secrets."""
        self._stream.write(without_secrets(text))
        self._stream.flush()
        return len(text)

    def fileno(self) -> int:
        return self._stream.fileno()


def hide_secrets_in_output() -> None:
    """From here on nothing that this process prints shows a secret. For processes that load the client library."""
    sys.stdout = HidingStream(sys.stdout)  # type: ignore[assignment]
    sys.stderr = HidingStream(sys.stderr)  # type: ignore[assignment]


def _known() -> list[str]:
    """Secrets of this process's environment, as they are and percent-encoded; the longest first."""
    found = {os.environ.get(name, "") for name in SECRET_VARIABLES}
    for uri in filter(None, map(os.environ.get, URI_VARIABLES)):
        try:
            parts = urlsplit(uri)
        except ValueError:  # which part of it is a secret, nobody can say
            found.add(uri)
            continue
        user_info = parts.netloc.rpartition("@")[0]
        queried = [pair.partition("=")[2] for pair in parts.query.split("&")]
        for encoded in (user_info.partition(":")[2], *queried):
            found |= {encoded, unquote(encoded)}
    return sorted((secret for secret in found if len(secret) >= SHORTEST), key=len, reverse=True)
