"""Reading YAML that someone wrote by hand, or sent: whatever is wrong with the file is one kind of error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml


class YamlFileError(ValueError):
    """A file that is not YAML; the message says why, without the file's name."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with the plain values of YAML 1.2 as DVC reads them: what DVC hashes is what we use.

    PyYAML follows YAML 1.1, where 017 is fifteen, 1:30 is ninety, `no` is false and 5e-05 is a string; DVC writes small
    numbers in that last way, for example for ``dvc exp run -S scales.embedded.optim.lr=5e-5``. A key that is there
    twice is an error, as it is for DVC: YAML forbids it, and PyYAML would take the last one without a word.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            written = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if written in seen:
                raise yaml.composer.ComposerError(None, None, f"the key {key.value!r} is there twice", key.start_mark)
            seen.add(written)
        return node


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    digits = text.lstrip("+-")
    base = {"0b": 2, "0o": 8, "0x": 16}.get(digits[:2], 10)
    return int(text, base)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag.rpartition(":")[2] not in ("bool", "int", "float")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# The patterns of ruamel.yaml for YAML 1.2, which DVC reads with.
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    "-+0123456789.",
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"(?:[-+]?0b[01_]+|[-+]?0o[0-7_]+|[-+]?[0-9_]+|[-+]?0x[0-9a-fA-F_]+)$"),
    "-+0123456789",
)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


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
