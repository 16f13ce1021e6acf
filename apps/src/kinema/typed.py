"""Plain values, as YAML has them, fitted to the type annotations of configs and constructors."""

import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union

from kinema.errors import ConfigError


def fit(value: Any, hint: Any, where: str) -> Any:
    """`value` as `hint` asks for it: lists become tuples, whole floats ints, "1e-4" a float.

    An annotation that is no plain type (a tensor, a component) accepts anything.

    Args:
        value: a scalar, list or mapping.
        hint: the annotation.
        where: the key, for the message.

    Raises:
        ConfigError: the value does not fit; says what would.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is None or hint is type(None):
        return _require(value is None, value, value, "null", where)
    if origin in (Union, types.UnionType):
        return _any_of(value, hint, arguments, where)
    if origin is Literal:
        return _require(value in arguments, value, value, " or ".join(map(str, arguments)), where)
    known = _KINDS.get(origin or hint)
    return known(value, arguments, where) if known else value


def spelled(hint: Any) -> str:
    """An annotation as a user reads it: `int | None`, `tuple[int, int]`, `Sampler`."""
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return str(hint).replace("typing.", "").replace("collections.abc.", "").replace("NoneType", "None")


def _any_of(value: Any, hint: Any, choices: tuple[Any, ...], where: str) -> Any:
    some = [choice for choice in choices if choice is not type(None)]
    if value is not None and len(some) == 1:
        return fit(value, some[0], where)  # whose message says more
    # The exact type first: 3 for `float | int` stays 3, "1" for `float | str` stays "1".
    for choice in sorted(choices, key=lambda choice: choice is not type(value)):
        try:
            return fit(value, choice, where)
        except ConfigError:
            continue
    raise ConfigError(f"{where} is {value!r}; it has to be {spelled(hint)}")


def _tuple(value: Any, arguments: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    _require(isinstance(value, list | tuple), value, value, "a list", where)
    if not arguments:
        return tuple(value)
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    _require(len(value) == len(arguments), value, value, f"a list of {len(arguments)}", where)
    return tuple(fit(part, item, f"{where}[{i}]") for i, (part, item) in enumerate(zip(value, arguments, strict=True)))


def _list(value: Any, arguments: tuple[Any, ...], where: str) -> list[Any]:
    _require(isinstance(value, list | tuple), value, value, "a list", where)
    return [fit(part, arguments[0] if arguments else Any, f"{where}[{i}]") for i, part in enumerate(value)]


def _sequence(value: Any, arguments: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    # A tuple, like the defaults: frozen dataclasses compare and hash by it.
    return tuple(_list(value, arguments, where))


def _dict(value: Any, arguments: tuple[Any, ...], where: str) -> dict[Any, Any]:
    _require(isinstance(value, Mapping), value, value, "a mapping", where)
    return {key: fit(part, arguments[1] if arguments else Any, f"{where}.{key}") for key, part in value.items()}


def _bool(value: Any, _: tuple[Any, ...], where: str) -> bool:
    return _require(isinstance(value, bool), value, value, "true or false", where)


def _int(value: Any, _: tuple[Any, ...], where: str) -> int:
    number = _number(value)
    whole = number is not None and math.isfinite(number) and number == int(number)
    return _require(whole, value, whole and int(number), "a whole number", where)


def _float(value: Any, _: tuple[Any, ...], where: str) -> float:
    number = _number(value)
    usable = number is not None and not math.isnan(number)
    return _require(usable, value, usable and float(number), "a number", where)


def _str(value: Any, _: tuple[Any, ...], where: str) -> str:
    # `run=123` on a command line is read as a number, but the user typed a word.
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _require(isinstance(value, str), value, value, "text", where)


def _path(value: Any, _: tuple[Any, ...], where: str) -> Path:
    return Path(_require(isinstance(value, str | Path), value, value, "a path", where))


def _number(value: Any) -> int | float | None:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


_KINDS: dict[Any, Callable[[Any, tuple[Any, ...], str], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    Path: _path,
    tuple: _tuple,
    list: _list,
    Sequence: _sequence,
    dict: _dict,
    Mapping: _dict,
}


def _require(holds: bool, value: Any, result: Any, wanted: str, where: str) -> Any:
    if not holds:
        raise ConfigError(f"{where} is {value!r}; it has to be {wanted}")
    return result
