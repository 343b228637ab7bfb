"""Sections of configuration files: what every one of them promises, and how its problems are told.

A section checks its values, its keys and the rules over several of them, and answers with all problems at once.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from taehv.runtime.errors import ConfigError, Problem
from taehv.runtime.yaml_files import YamlFileError, read_yaml

LARGEST_WHOLE_NUMBER = 2**53
"""Up to here a float holds every integer exactly, and every rule can compute."""

AtLeastOne = Annotated[int, Field(ge=1)]
AtLeastZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class OneOf:
    """``Annotated[str, OneOf(TABLE)]``: a key of a table, as ``Literal`` would say it if the names stood here."""

    names: Collection[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.literal_schema(list(self.names))


Rules = Callable[[Mapping[str, Any]], Iterator[Problem]]
"""From the values of a section that could be read to what is wrong about them together. A value that is not there has a
problem of its own, and the rules that need it are left out."""
Place = tuple[int | str, ...]
"""A key's names, from the outermost one."""
SectionT = TypeVar("SectionT", bound="Section")


def no_rules(values: Mapping[str, Any]) -> Iterator[Problem]:
    """Of a section whose keys have nothing to do with each other."""
    return iter(())


class Section(BaseModel):
    """Keys and values that are all there, are of their types exactly, and never change; no other key is known."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        str_min_length=1,
        use_attribute_docstrings=True,
        defer_build=True,
    )
    rules: ClassVar[Rules] = no_rules

    @field_validator("*", mode="before")
    @classmethod
    def _from_yaml(cls, raw: Any) -> Any:
        """YAML has lists where we have tuples, and integers of any size."""
        if isinstance(raw, int) and abs(raw) > LARGEST_WHOLE_NUMBER:
            raise ValueError("too large")
        return tuple(raw) if isinstance(raw, list) else raw

    @model_validator(mode="wrap")
    @classmethod
    def _all_problems_at_once(cls, raw: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        errors: list[InitErrorDetails] = []
        section = None
        try:
            section = read(raw)
        except ValidationError as error:
            errors = _in_our_words(cls, raw, error)
        if isinstance(raw, Mapping):
            wrong = {error["loc"] for error in errors if _kind(error) == "unreadable"}
            errors += [
                _error("impossible", tuple(filter(None, problem.key.split("."))), problem.message)
                for problem in cls.rules(_readable(raw, wrong))
            ]
        if section is None or errors:
            raise ValidationError.from_exception_data(cls.__name__, errors) from None
        return section

    def plain(self) -> dict[str, Any]:
        """As dicts, lists and scalars with the keys of the file."""
        return self.model_dump(mode="json", by_alias=True)


def read_section(schema: type[SectionT], raw: object, origin: str) -> SectionT:
    """Check ``raw``, what a YAML file holds.

    Raises:
        ConfigError: it has problems; all of them are listed.
    """
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        problems = [Problem(_dotted(one["loc"]) or "(top level)", one["msg"]) for one in found]
    raise ConfigError(origin, problems)


def read_file(path: Path) -> object:
    """A configuration file, not checked yet.

    Raises:
        ConfigError: the file is missing or is not YAML.
    """
    try:
        return read_yaml(path)
    except OSError as error:
        raise ConfigError(str(path), [Problem("(file)", f"cannot be read: {error.strerror}")]) from error
    except YamlFileError as error:
        raise ConfigError(str(path), [Problem("(file)", str(error))]) from error


def _readable(raw: Any, wrong: Collection[Place], place: Place = ()) -> Any:
    """What was read, without what is wrong. It ends where the schema does: what that does not know is wrong."""
    if isinstance(raw, Section):
        return raw.plain()
    if not isinstance(raw, Mapping):
        return raw
    right = {key: value for key, value in raw.items() if isinstance(key, str) and (*place, key) not in wrong}
    return {key: _readable(value, wrong, (*place, key)) for key, value in right.items()}


def _in_our_words(schema: type[Section], raw: Any, error: ValidationError) -> list[InitErrorDetails]:
    """The problems of a section: those of its sections as they are, and one for each of its own keys."""
    found: dict[tuple[str, Place, str], None] = {}  # a set in order: what says one thing of one key twice counts once
    for one in error.errors(include_url=False, include_input=False):
        where = one["loc"]
        if one["type"] in ("unreadable", "impossible"):
            found[one["type"], where, one["msg"]] = None
            continue
        known, key = _known_keys(schema), where[:1]
        if not key:
            message = f"must be a mapping of keys to values, got {_show(raw)}"
        elif one["type"] == "missing" and key == where:
            message = f"missing; expected {_describe(known[str(key[0])])}"
        elif one["type"] in ("extra_forbidden", "invalid_key"):
            message = f"unknown key; known here: {', '.join(known)}"
        else:
            message = f"must be {_describe(known[str(key[0])])}, got {_show(raw[key[0]])}"
        found["unreadable", key, message] = None
    return [_error(*one) for one in found]


@cache
def _known_keys(schema: type[Section]) -> dict[str, Any]:
    """Each key of a section, with the JSON schema of its value."""
    return schema.model_json_schema()["properties"]


def _error(kind: str, where: Place, message: str) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError(kind, "{message}", {"message": message}), loc=where, input=None)


def _kind(error: InitErrorDetails) -> str:
    return error["type"] if isinstance(error["type"], str) else error["type"].type


def _dotted(where: Place) -> str:
    return ".".join(map(str, where))


def _describe(schema: Mapping[str, Any]) -> str:
    """The values that a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(map(_describe, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return "one of " + ", ".join(schema.get("enum") or [schema["const"]])
    if schema.get("type") == "array":
        length = f" of {schema['maxItems']}" if "maxItems" in schema else ""
        return f"a list{length}, each {_describe(schema['items'] if 'items' in schema else schema['prefixItems'][0])}"
    if "propertyNames" in schema:
        return "a mapping of strings to values with at least one entry"
    kind = TYPES.get(schema.get("type", ""), "a mapping of keys to values")
    limits = [f"{sign} {schema[name]:.10g}" for name, sign in LIMITS.items() if name in schema]
    return " ".join([kind, " and ".join(limits)]).rstrip()


TYPES = {
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a finite number",
    "string": "a string",
    "null": "null",
}
LIMITS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}


class _Short(reprlib.Repr):
    """Not repr(): a few lines of YAML aliases can stand for billions of entries."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 60

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to spell out more than 4,300 digits.
        return super().repr_int(x, level) if abs(x) < 10**60 else "a number of more than 60 digits"


_show = _Short().repr
