"""Registries: components found by name among the installed distributions' entry points.

Names come from metadata, so listing them imports nothing; only the component that is asked for is imported.
"""

import difflib
import inspect
import typing
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_by_interface: dict[type, "Registry[Any]"] = {}


class Registry(Generic[T]):
    """The components of one kind: the entry points of group `kinema.<kind>`, all subclasses of `interface`.

    Args:
        kind: the part of the group's name after the dot, such as "vae".
        interface: the abstract class every component of this kind derives from.
    """

    def __init__(self, kind: str, interface: type[T]) -> None:
        self.kind = kind
        self.group = f"kinema.{kind}"
        self.interface = interface
        _by_interface[interface] = self

    def names(self) -> list[str]:
        """All registered names, sorted. Reads installed metadata only and imports no component."""
        return sorted(self._found())

    def clashes(self) -> dict[str, list[str]]:
        """Names that several distributions claim with different objects: {name: [distribution, ...]}."""
        return {name: _dists(points) for name, points in self._found().items() if _differ(points)}

    def get(self, name: str) -> type[T]:
        """Import and return the class registered as `name`.

        Raises:
            KeyError: nothing has this name; the message lists what is installed.
            LookupError: several distributions claim the name.
            TypeError: the object is no subclass of the interface.
        """
        found = self._point(name).load()
        if not (isinstance(found, type) and issubclass(found, self.interface)):
            raise TypeError(f"{self.group} component {name!r} is {found!r}, not a {self.interface.__name__}")
        return found

    def origin(self, name: str) -> tuple[str, str]:
        """The distribution that provides `name` and its version, as ("kinema-vae", "0.1.0"). Raises as `get`."""
        dist = self._point(name).dist
        return (dist.name, dist.version) if dist else ("unknown", "unknown")

    def parameters(self, name: str) -> dict[str, inspect.Parameter]:
        """The keyword arguments of the constructor of `name`: the schema of its config. Raises as `get`."""
        return _parameters(self.get(name))

    def build(self, config: Mapping[str, Any], **derived: Any) -> T:
        """Construct the component that `config["name"]` names, with the other keys as keyword arguments.

        A value that is itself a mapping with a name, for a parameter annotated with an interface, is built too.

        Args:
            config: {"name": ..., **keyword arguments}, plain values only.
            derived: arguments read off other components (latent_channels, text_widths, ...). Those that the
                constructor accepts are passed; a config that sets one of them is refused.

        Raises:
            KeyError, LookupError, TypeError: as `get`.
            ValueError: no name, an unknown key, a missing key, or a derived key in the config.
        """
        kwargs = dict(config)
        name = kwargs.pop("name", None)
        if not isinstance(name, str):
            raise ValueError(f"{self.kind}: a component needs a name; known are {_listed(self.names())}")
        accepted = self.parameters(name)
        for key in kwargs:
            if key in derived:
                raise ValueError(f"{self.kind}.{key} is read off the other components; remove it from the config")
            if key not in accepted:
                settable = [k for k in accepted if k not in derived]
                hint = nearest(key, settable)
                raise ValueError(f"{self.kind}.{key} is no setting of {name!r}{hint}; it accepts {_listed(settable)}")
        hints = typing.get_type_hints(self.get(name).__init__)
        kwargs = {key: _nested(value, hints.get(key)) for key, value in kwargs.items()}
        kwargs |= {key: value for key, value in derived.items() if key in accepted}
        missing = [k for k, p in accepted.items() if p.default is p.empty and k not in kwargs]
        if missing:
            raise ValueError(f"{self.kind} {name!r} needs a value for {_listed(missing)}")
        return self.get(name)(**kwargs)

    def _found(self) -> dict[str, list[EntryPoint]]:
        points: dict[str, list[EntryPoint]] = defaultdict(list)
        for point in _installed().select(group=self.group):
            points[point.name].append(point)
        return points

    def _point(self, name: str) -> EntryPoint:
        points = self._found().get(name)
        if not points:
            known = self.names()
            raise KeyError(
                f"no {self.kind} component is named {name!r}{nearest(name, known)}; installed are {_listed(known)}. "
                f"Install the package that provides it (an entry point of group {self.group})"
            )
        if _differ(points):
            claims = " and ".join(_dists(points))
            raise LookupError(f"{self.kind} component {name!r} is claimed by {claims}; remove one")
        return points[0]


def refresh() -> None:
    """Forget the cached metadata, for packages installed while this process runs."""
    _installed.cache_clear()


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint such as " (did you mean 'depth'?)", or "" where nothing is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


@cache
def _installed():  # noqa: ANN202  one read for all groups: it costs milliseconds
    return entry_points()


def _differ(points: list[EntryPoint]) -> bool:
    # An editable install may be listed twice: the same object under one name is no clash.
    return len({point.value for point in points}) > 1


def _dists(points: list[EntryPoint]) -> list[str]:
    return sorted({point.dist.name if point.dist else point.value for point in points})


def _parameters(component: type) -> dict[str, inspect.Parameter]:
    parameters = dict(inspect.signature(component).parameters)
    open_ended = [p.name for p in parameters.values() if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if open_ended:
        raise TypeError(f"{component.__name__} takes *{open_ended[0]}: a component's arguments are its config schema")
    return parameters


def _nested(value: Any, annotation: Any) -> Any:
    if not (isinstance(value, Mapping) and "name" in value):
        return value
    for choice in (annotation, *typing.get_args(annotation)):
        if isinstance(choice, type) and choice in _by_interface:
            return _by_interface[choice].build(value)
    return value


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
