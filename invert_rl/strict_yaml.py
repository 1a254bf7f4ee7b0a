"""YAML as a person means it: no key twice, 1e-6 is a number, 010 is ten, and an error names file and line."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, ScalarNode

from data_prep.errors import DataError

NUMBER = re.compile(r"^[-+]?(?:[0-9][0-9_]*|(?:[0-9][0-9_]*)?\.[0-9]+|[0-9][0-9_]*\.)(?:[eE][-+]?[0-9]+)?$")
"""Of YAML 1.2: in 1.1 ``1e-6`` is a text, ``010`` is eight and ``1:30`` is ninety."""

_TAG = "tag:yaml.org,2002:"
_NUMBERS = (f"{_TAG}int", f"{_TAG}float")
_OTHER_FLOAT = re.compile(r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$")
_HEXADECIMAL = re.compile(r"^0x[0-9a-fA-F]+$")


class StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, with the numbers of YAML 1.2, that refuses a key which is there twice."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in _NUMBERS]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As PyYAML's; raises `ConstructorError` for a key that is there twice."""
        seen: list[Any] = []
        for key, _ in node.value:
            if isinstance(key, ScalarNode) and key.tag != f"{_TAG}merge":
                name = self.construct_object(key, deep=True)
                if name in seen:
                    raise ConstructorError(None, None, f"the key {name!r} is there twice", key.start_mark)
                seen.append(name)
        return super().construct_mapping(node, deep)

    def _number(self, node: ScalarNode) -> int | float:
        text = self.construct_scalar(node)
        if text.startswith("0x"):
            return int(text, 16)
        return int(text) if re.fullmatch(r"[-+]?[0-9_]+", text) else float(text)


StrictLoader.add_implicit_resolver("number", NUMBER, [*"-+.0123456789"])
StrictLoader.add_implicit_resolver("number", _HEXADECIMAL, ["0"])
StrictLoader.add_implicit_resolver(f"{_TAG}float", _OTHER_FLOAT, [*"-+."])
StrictLoader.add_constructor("number", StrictLoader._number)


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping that a YAML file holds; raises `DataError` naming the file and what is wrong in it."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), StrictLoader)  # a SafeLoader
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text ({error.reason} at byte {error.start})") from error
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise DataError(f"{path}: not valid YAML: nested too deeply") from error
    except ValueError as error:  # a date such as 2001-13-01, digits by the thousand
        raise DataError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: must contain a YAML mapping, name: value")
    odd = [key for key in content if not isinstance(key, str)]
    if odd:
        raise DataError(f"{path}: the key {odd[0]!r} is no name")
    return content
