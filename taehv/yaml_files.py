"""Reading YAML that somebody wrote by hand, or sent: whatever is wrong with the file is one kind of error."""

from __future__ import annotations

import re
from pathlib import Path

import yaml


class YamlFileError(ValueError):
    """A file that is not YAML; the message says why, without the file's name."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader that also takes 5e-05 for a number.

    PyYAML follows YAML 1.1, where that is a text. DVC follows YAML 1.2 and writes small numbers this way, for example
    for ``dvc exp run -S scales.embedded.optim.lr=5e-5``.
    """


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> object:
    """The content of a YAML file, without Python objects of its author's choice.

    Raises:
        OSError: the file cannot be read.
        YamlFileError: it is not UTF-8 text or not YAML.
    """
    try:
        return _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except UnicodeDecodeError as error:
        raise YamlFileError(f"is not UTF-8 text: {error}") from error
    # PyYAML lets the errors of Python's own constructors through, for example for the date 2024-13-45 or !!int "".
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise YamlFileError(f"is not valid YAML: {error}") from error
    except RecursionError as error:
        raise YamlFileError("is nested too deeply") from error
