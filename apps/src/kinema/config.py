"""Config in three layers: typed defaults, a YAML file, `key=value` words of the command line.

A config is a dataclass of dataclasses. A field made by `component` is a component node, an open dict: `name` and the
constructor's keyword arguments. A layer that sets its `name` drops the keys that earlier layers gave it.
"""

import dataclasses
import json
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from kinema_core import nearest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kinema.components import check, registries
from kinema.errors import ConfigError
from kinema.typed import fit
from kinema.yaml_text import read_file, read_word

T = TypeVar("T")
Node = dict[str, Any]


def component(kind: str, /, **node: Any) -> Any:
    """A dataclass field for a component: `vae: dict[str, Any] = component("vae", name="causal3d", width=64)`.

    Without arguments there is none by default. `key=null` takes it away again.
    """
    return dataclasses.field(default_factory=lambda: dict(node) if node else None, metadata={"kind": kind})


def component_set(kind: str, /, **nodes: Node) -> Any:
    """A dataclass field for several components of a kind by label: `component_set("text", main={"name": "tiny"})`.

    One is changed by `text.main.name=...`, added under a new label, and removed by `text.main=null`.
    """
    return dataclasses.field(
        default_factory=lambda: {label: dict(node) for label, node in nodes.items()},
        metadata={"kind": kind, "set": True},
    )


def load_config(schema: type[T], file: str | None = None, overrides: Sequence[str] = ()) -> T:
    """The schema's defaults, changed by a YAML file, changed by `key=value` words, as an instance of `schema`.

    `${section.key}` takes the value of another key. Component nodes stay plain dicts, checked by
    `validate_components`.

    Args:
        schema: a dataclass; its fields are plain types, dataclasses or components.
        file: path or URL of a YAML file, or None.
        overrides: such as ["vae.name=acme", "trainer.max_steps=100"]; their order is of no account.

    Raises:
        ConfigError: an unknown key (names the nearest), a value of a wrong type, unreadable YAML.
    """
    values = _defaults(schema)
    for layer in (read_file(file) if file else {}, parse_words(overrides)):
        _merge(values, layer, schema, "")
    return _instance(_resolved(values), schema, "")


def parse_words(words: Sequence[str]) -> dict[str, Any]:
    """`["a.b=1", "a.c=x"]` -> {"a": {"b": 1, "c": "x"}}; of a key given twice the last counts."""
    layer: dict[str, Any] = {}
    for word in words:
        path, equals, value = word.partition("=")
        keys = path.split(".")
        if not equals or not all(re.fullmatch(r"[\w-]+", key) for key in keys):
            raise ConfigError(f"{word!r} is no setting; write section.key=value")
        section = layer
        for depth, key in enumerate(keys[:-1], start=1):
            section = section.setdefault(key, {})
            if not isinstance(section, dict):
                raise ConfigError(f"{'.'.join(keys[:depth])} is set as a value and, by {word!r}, as a section")
        if isinstance(section.get(keys[-1]), dict):
            raise ConfigError(f"{path} is set as a section and, by {word!r}, as a value")
        section[keys[-1]] = read_word(value)
    return layer


def component_nodes(config: Any) -> Iterator[tuple[str, str, Node]]:
    """Every component node of a config as (key, kind, node): ("vae", "vae", {"name": ...}), ..."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if "set" in field.metadata:
            for label, node in (value or {}).items():
                yield f"{field.name}.{label}", field.metadata["kind"], node
        elif "kind" in field.metadata:
            if value is not None:
                yield field.name, field.metadata["kind"], value
        elif dataclasses.is_dataclass(value):
            for where, kind, node in component_nodes(value):
                yield f"{field.name}.{where}", kind, node


def validate_components(config: Any) -> None:
    """Check names, keys (no widths) and types of all component nodes against the registries, before anything is built.

    Raises:
        ConfigError: names the key, and what would be right.
    """
    known = registries()
    for where, kind, node in component_nodes(config):
        check(known[kind], node, where=where)


def to_plain(config: Any) -> dict[str, Any]:
    """The config as nested dicts of plain values, passwords in URLs blotted out: what may be shown and logged."""
    return _plain(dataclasses.asdict(config))


def to_yaml(config: Any) -> str:
    """The whole config as YAML that `load_config` reads back."""
    return yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)


def print_config(config: Any) -> None:
    """Write the whole config as YAML to stdout."""
    sys.stdout.write(to_yaml(config))


def flatten(config: Any) -> dict[str, Any]:
    """{"trainer.max_steps": 100, ...}: one scalar a key, lists as JSON, for a tracker's parameters."""
    flat: dict[str, Any] = {}

    def visit(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                visit(part, f"{path}.{key}" if path else key)
        else:
            flat[path] = json.dumps(value) if isinstance(value, list) else value

    visit(to_plain(config), "")
    return flat


def _defaults(schema: type) -> dict[str, Any]:
    """The default values as nested dicts; a field without a default is left out."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(schema):
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            value = field.default
        else:
            continue
        values[field.name] = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
    return values


def _merge(values: dict[str, Any], layer: Mapping[str, Any], schema: type, section: str) -> None:
    """Write the keys of `layer` over `values`, in place."""
    fields = {field.name: field for field in dataclasses.fields(schema)}
    hints = typing.get_type_hints(schema)
    for key, value in layer.items():
        where = f"{section}{key}"
        if key not in fields:
            raise ConfigError(f"{where} is no setting{nearest(key, fields)}; known are {', '.join(fields)}")
        metadata, inner = fields[key].metadata, _dataclass_of(hints[key])
        if "set" in metadata:
            nodes = dict(values.get(key) or {})
            for label, node in _mapping(value, where, "label: {name: ...}").items():
                nodes[label] = merge_node(nodes.get(label), node, f"{where}.{label}")
            values[key] = {label: node for label, node in nodes.items() if node is not None}
        elif "kind" in metadata:
            values[key] = merge_node(values.get(key), value, where)
        elif inner and value is not None:
            values[key] = values.get(key) or _defaults(inner)
            _merge(values[key], _mapping(value, where, "a section"), inner, f"{where}.")
        else:
            values[key] = value


def merge_node(node: Node | None, layer: Any, where: str) -> Node | None:
    """A component node with a layer over it: one that sets `name` drops the other keys. `where` is for the error."""
    if layer is None:
        return None
    _mapping(layer, where, f"a component: write {where}.name={layer}")
    merged = {"name": layer["name"]} if "name" in layer else dict(node or {})
    for key, value in layer.items():
        earlier = merged.get(key)
        nested = isinstance(value, Mapping) and isinstance(earlier, Mapping)
        merged[key] = merge_node(dict(earlier), value, f"{where}.{key}") if nested else value
    return merged


def _mapping(value: Any, where: str, wanted: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {value!r}; it has to be {wanted}")
    return value


def _resolved(values: dict[str, Any]) -> dict[str, Any]:
    """Replace `${section.key}`. Resolvers such as `${oc.env:...}` are refused: the config is printed and logged."""
    _refuse_resolvers(values, "")
    try:
        config = OmegaConf.create(values)
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        where = getattr(error, "full_key", None) or "config"
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}") from None


def _refuse_resolvers(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, part in value.items():
            _refuse_resolvers(part, f"{where}.{key}" if where else key)
    elif isinstance(value, list | tuple):
        for part in value:
            _refuse_resolvers(part, where)
    elif isinstance(value, str):
        while inner := re.search(r"\$\{([^${}]*)\}", value):
            if ":" in inner[1]:
                raise ConfigError(f"{where}: {inner[0]} is not read; only ${{section.key}} of another key is")
            value = value.replace(inner[0], "key")


def _instance(values: Mapping[str, Any], schema: type[T], section: str) -> T:
    """Build the dataclass, each value fitted to its annotation."""
    hints, arguments = typing.get_type_hints(schema), {}
    for field in dataclasses.fields(schema):
        where, inner = f"{section}{field.name}", _dataclass_of(hints[field.name])
        if field.name not in values:
            raise ConfigError(f"{where} needs a value")
        value = values[field.name]
        if "kind" in field.metadata:
            if value is None and type(None) not in typing.get_args(hints[field.name]):
                raise ConfigError(f"{where} needs a component; write {where}.name=...")
            arguments[field.name] = value
        elif inner and value is not None:
            arguments[field.name] = _instance(value, inner, f"{where}.")
        else:
            arguments[field.name] = fit(value, hints[field.name], where)
    try:
        return schema(**arguments)
    except ValueError as error:  # a schema's own check, in its __post_init__
        raise ConfigError(f"{section}{error}") from None


def _dataclass_of(hint: Any) -> type | None:
    """The dataclass in `X` or `X | None`."""
    for choice in (hint, *typing.get_args(hint)):
        if isinstance(choice, type) and dataclasses.is_dataclass(choice):
            return choice
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, str | Path):
        return re.sub(r"(://)[^/@\s]*@", r"\1***@", str(value))
    return value
