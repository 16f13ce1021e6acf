"""YAML text and command-line words read into plain values: YAML 1.2 scalars, no tags, no aliases, no duplicate keys."""

import re
from typing import Any

import fsspec
import yaml

from kinema.errors import ConfigError

#: Far above any config, far below what would hurt.
MAX_BYTES = 1 << 20
MAX_DEPTH = 32


class _SafeLoader(yaml.SafeLoader):
    """YAML 1.2's core schema: PyYAML's own is 1.1, where 1e-4 is text, `no` is false and 012 is ten."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are text and unique."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise ConfigError(f"line {line}: a key has to be text")
            if key in seen:
                raise ConfigError(f"line {line}: {key!r} is given twice")
            seen.add(key)
        return {str(key): value for key, value in super().construct_mapping(node, deep=True).items()}


_NUMBER = r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9_]*)(?:\.[0-9]*)?)"
for _tag, _pattern in {
    "null": r"~|null|",
    "bool": r"true|True|false|False",
    "int": r"[-+]?(?:0|[1-9][0-9_]*)",
    "float": rf"{_NUMBER}(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
}.items():
    _SafeLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), None)


def read_file(path: str) -> dict[str, Any]:
    """The mapping in a YAML file, local or at an fsspec URL.

    Raises:
        ConfigError: no such file, too large, or no mapping; the message starts with the path.
    """
    try:
        with fsspec.open(path, "rb") as file:
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"there is no config file {path}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; a config is a YAML file") from None
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES} bytes, too large for a config")
    try:
        value = read(text.decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no text in UTF-8") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{path} has to be a mapping (key: value), not a {type(value).__name__}")
    return value or {}


def read(text: str) -> Any:
    """The value of a YAML text. Raises ConfigError with the line for what is refused."""
    try:
        _inspect(text)
        return yaml.load(text, Loader=_SafeLoader)  # noqa: S506  a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"line {line}: {error.problem or 'no valid YAML'}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"no valid YAML: {str(error).splitlines()[0]}") from None


def read_word(text: str) -> Any:
    """The value of a command-line word: a number, true, null, [a list], {a: mapping}, or the text itself."""
    if not text:
        return ""
    if text[0] in "[{\"'":
        return read(text)
    try:
        value = read(text)
    except ConfigError:
        return text
    return text if isinstance(value, dict | list) else value


def _inspect(text: str) -> None:
    """Refuse aliases (a few lines of them expand to gigabytes), tags and deep nesting, before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"line {line}: YAML aliases are not read; refer to another key as ${{section.key}}")
        if getattr(event, "tag", None):
            raise ConfigError(f"line {line}: YAML tags such as {event.tag} are not read")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"line {line}: nested deeper than {MAX_DEPTH}")
