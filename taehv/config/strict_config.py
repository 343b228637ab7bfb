"""Strict reading of nested configuration into frozen dataclasses.

Why not a validation library: the schema has to load on a training box that has only torch, numpy and accelerate,
and a wrong file must be answered with *all* of its problems at once, type errors and impossible combinations together.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from taehv.runtime.errors import Problem

LARGEST_WHOLE_NUMBER = 2**53
"""Up to here a float holds every whole number exactly."""

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True)
class Bounds:
    """The allowed interval of a number; attach it with ``Annotated[float, Bounds(low=0.0)]``."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def contains(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below

    def __str__(self) -> str:
        left = f"{'>' if self.low_open else '>='} {self.low:g}" if math.isfinite(self.low) else ""
        right = f"{'<' if self.high_open else '<='} {self.high:g}" if math.isfinite(self.high) else ""
        return " and ".join(part for part in (left, right) if part)


@dataclass
class Reading:
    """The values read so far, by dotted key, and the problems met on the way.

    A key with a problem has no value here, so that rules over several keys can tell "wrong" from "not readable".
    """

    values: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def reject(self, key: str, message: str) -> None:
        self.problems.append(Problem(key, message))


_FAILED = object()


def read(schema: type[ConfigT], raw: object, reading: Reading, prefix: str = "") -> ConfigT | None:
    """Read ``raw`` as ``schema``; returns None where any part of it failed (``reading`` says why)."""
    value = _read_dataclass(schema, raw, prefix, reading)
    return None if value is _FAILED else value


def to_plain(config: Any) -> Any:
    """The configuration as dicts, lists and scalars with the keys of the file."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {file_key(f.name): to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_plain(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [to_plain(value) for value in config]
    return config


def file_key(field_name: str) -> str:
    """Fields named after a Python keyword carry a trailing underscore that the file does not have."""
    return field_name.removesuffix("_")


def _read_dataclass(schema: Any, raw: object, prefix: str, reading: Reading) -> Any:
    if not isinstance(raw, Mapping):
        reading.reject(prefix or "(top level)", f"must be a mapping of keys to values, got {_show(raw)}")
        return _FAILED
    hints = typing.get_type_hints(schema, include_extras=True)
    fields = {file_key(f.name): f for f in dataclasses.fields(schema)}
    failed = False
    for key in raw:
        if key not in fields:
            shown = key if isinstance(key, str) else _show(key)
            reading.reject(_join(prefix, shown), f"unknown key; known here: {', '.join(sorted(fields))}")
            failed = True
    values = {}
    for key, config_field in fields.items():
        dotted = _join(prefix, key)
        if key not in raw:
            reading.reject(dotted, f"missing; expected {_describe(hints[config_field.name])}")
            failed = True
            continue
        value = _read_value(hints[config_field.name], raw[key], dotted, reading)
        if value is _FAILED:
            failed = True
        else:
            values[config_field.name] = reading.values[dotted] = value
    return _FAILED if failed else schema(**values)


def _read_value(hint: Any, raw: object, key: str, reading: Reading) -> Any:
    bounds, hint = _split_annotation(hint)
    origin = get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _read_dataclass(hint, raw, key, reading)
    if origin is dict:
        return _read_mapping(get_args(hint)[1], raw, key, reading)
    if origin is tuple:
        return _read_sequence(hint, raw, key, reading)
    if origin in (Union, types.UnionType):
        return _read_union(hint, raw, key, reading)
    value = _scalar(hint, raw)
    if value is _FAILED:
        reading.reject(key, f"must be {_describe(hint)}, got {_show(raw)}")
    elif bounds is not None and not bounds.contains(value):
        reading.reject(key, f"must be {bounds}, got {raw}")
        return _FAILED
    return value


def _read_union(hint: Any, raw: object, key: str, reading: Reading) -> Any:
    """``X | None``, whose problems are X's, or a choice like ``int | Literal["auto"]``."""
    options = get_args(hint)
    if raw is None and type(None) in options:
        return None
    *alternatives, last = [option for option in options if option is not type(None)]
    for option in alternatives:
        attempt = Reading()
        value = _read_value(option, raw, key, attempt)
        if value is not _FAILED:
            reading.values.update(attempt.values)
            return value
    if not alternatives:
        return _read_value(last, raw, key, reading)
    value = _read_value(last, raw, key, Reading())
    if value is _FAILED:
        reading.reject(key, f"must be {_describe(hint)}, got {_show(raw)}")
    return value


def _read_mapping(value_hint: Any, raw: object, key: str, reading: Reading) -> Any:
    if not isinstance(raw, Mapping) or not raw:
        reading.reject(key, f"must be a mapping with at least one entry, got {_show(raw)}")
        return _FAILED
    if not all(isinstance(name, str) for name in raw):
        reading.reject(key, f"must have texts as its keys, got {_show(list(raw))}")
        return _FAILED
    read_values = {name: _read_value(value_hint, item, _join(key, name), reading) for name, item in raw.items()}
    return _FAILED if any(value is _FAILED for value in read_values.values()) else read_values


def _read_sequence(hint: Any, raw: object, key: str, reading: Reading) -> Any:
    items = get_args(hint)
    any_length = len(items) == 2 and items[1] is Ellipsis
    if not isinstance(raw, list | tuple) or (not any_length and len(raw) != len(items)):
        reading.reject(key, f"must be {_describe(hint)}, got {_show(raw)}")
        return _FAILED
    hints = [items[0]] * len(raw) if any_length else items
    pairs = enumerate(zip(hints, raw, strict=True))
    read_values = tuple(_read_value(item, value, f"{key}[{i}]", reading) for i, (item, value) in pairs)
    return _FAILED if any(value is _FAILED for value in read_values) else read_values


def _scalar(hint: Any, raw: object) -> Any:
    if get_origin(hint) is Literal:
        return raw if raw in get_args(hint) and not isinstance(raw, bool) else _FAILED
    if hint is bool:
        return raw if isinstance(raw, bool) else _FAILED
    if hint is int:
        return raw if _is_whole_number(raw) else _FAILED
    if hint is float:
        number = _is_whole_number(raw) or (isinstance(raw, float) and math.isfinite(raw))
        return float(typing.cast(float, raw)) if number else _FAILED
    if hint is str:
        return raw if isinstance(raw, str) and raw else _FAILED
    raise TypeError(f"the schema uses {hint}, which this reader does not know")


def _is_whole_number(raw: object) -> bool:
    """Of a size that every rule can compute with: sums and products of larger ones do not fit a float."""
    return isinstance(raw, int) and not isinstance(raw, bool) and abs(raw) <= LARGEST_WHOLE_NUMBER


def _split_annotation(hint: Any) -> tuple[Bounds | None, Any]:
    if get_origin(hint) is typing.Annotated:
        inner, *extras = get_args(hint)
        return next((extra for extra in extras if isinstance(extra, Bounds)), None), inner
    return None, hint


def _describe(hint: Any) -> str:
    bounds, hint = _split_annotation(hint)
    origin = get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in get_args(hint))
    if origin is tuple:
        items = get_args(hint)
        if len(items) == 2 and items[1] is Ellipsis:
            return f"a list, each {_describe(items[0])}"
        return f"a list of {len(items)}, each {_describe(items[0])}"
    if origin in (Union, types.UnionType):
        return " or ".join("null" if option is type(None) else _describe(option) for option in get_args(hint))
    names = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}
    described = names.get(hint, "a mapping")
    return f"{described} {bounds}" if bounds else described


def _show(raw: object) -> str:
    # Not repr(): a few lines of YAML aliases can stand for billions of entries.
    return f"{_Short().repr(raw)} ({type(raw).__name__})"


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 60

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to spell out more than 4,300 digits.
        return super().repr_int(x, level) if abs(x) < 10**60 else "a number of more than 60 digits"


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key
