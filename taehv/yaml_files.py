"""Reading YAML that somebody wrote by hand, or sent: whatever is wrong with the file is one kind of error."""

from __future__ import annotations

from pathlib import Path

import yaml


class YamlFileError(ValueError):
    """A file that is not YAML; the message says why, without the file's name."""


def read_yaml(path: Path) -> object:
    """The content of a YAML file, without Python objects of its author's choice.

    Raises:
        OSError: the file cannot be read.
        YamlFileError: it is not UTF-8 text or not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise YamlFileError(f"is not UTF-8 text: {error}") from error
    # PyYAML lets the errors of Python's own constructors through, for example for the date 2024-13-45 or !!int "".
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise YamlFileError(f"is not valid YAML: {error}") from error
    except RecursionError as error:
        raise YamlFileError("is nested too deeply") from error
