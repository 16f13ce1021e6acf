"""Registries on fabricated entry points: what names, clashes and config mistakes do."""

import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from types import SimpleNamespace

import pytest

from kinema_core import Registry, nearest, refresh, registry


class Engine(ABC):
    """A kind of component."""

    @abstractmethod
    def power(self) -> float:
        """Something to implement."""


class Wheel(ABC):
    """Another kind, nested in the first by `Truck`."""

    @abstractmethod
    def size(self) -> float:
        """Something to implement."""


@dataclass(frozen=True)
class Motor(Engine):
    depth: int
    width: int = 4
    rate: float = 0.5

    def power(self) -> float:
        return self.depth * self.rate


@dataclass(frozen=True)
class Tyre(Wheel):
    radius: float = 1.0

    def size(self) -> float:
        return self.radius


@dataclass(frozen=True)
class Truck(Engine):
    wheel: Wheel
    spare: Wheel | None = None
    cargo: dict | None = None

    def power(self) -> float:
        return 1.0


class Loose(Engine):
    def __init__(self, depth: int = 1, **rest: int) -> None: ...

    def power(self) -> float:
        return 0.0


class Starred(Engine):
    def __init__(self, *depths: int) -> None: ...

    def power(self) -> float:
        return 0.0


#: The registries under test; made once, since a registry is found by its interface when components are nested.
engines, wheels = Registry("test_engine", Engine), Registry("test_wheel", Wheel)


def point(name: str, value: str, dist: str = "ours", version: str = "0.1.0", group: str = "kinema.test_engine"):
    """An entry point as an installed distribution gives it."""
    entry = EntryPoint(name, value, group)
    vars(entry)["dist"] = SimpleNamespace(name=dist, version=version)
    return entry


@pytest.fixture
def install(monkeypatch):
    """install(entry points...): what is installed, for this test."""

    def install(*points: EntryPoint) -> None:
        monkeypatch.setattr(registry, "entry_points", lambda: EntryPoints(points))
        refresh()

    yield install
    monkeypatch.undo()
    refresh()


@pytest.fixture
def ours(install, monkeypatch):
    """The components of this file, under the names they would have."""
    monkeypatch.setitem(sys.modules, "parts", sys.modules[__name__])
    names = {"motor": "Motor", "truck": "Truck", "loose": "Loose", "starred": "Starred", "number": "nearest"}
    points = [point(name, f"parts:{value}") for name, value in names.items()]
    install(*points, point("tyre", "parts:Tyre", group="kinema.test_wheel"))


def test_names_are_sorted_and_import_nothing(install):
    install(point("b", "no_such_module:B"), point("a", "no_such_module:A"), point("c", "x:C", group="kinema.other"))
    assert engines.names() == ["a", "b"]
    assert engines.origin("a") == ("ours", "0.1.0")
    with pytest.raises(ModuleNotFoundError):
        engines.get("a")


def test_metadata_is_read_once_until_refresh(install, monkeypatch):
    install(point("a", "x:A"))
    assert engines.names() == ["a"]
    monkeypatch.setattr(registry, "entry_points", lambda: EntryPoints([point("b", "x:B")]))
    assert engines.names() == ["a"]
    refresh()
    assert engines.names() == ["b"]


def test_unknown_name_lists_what_is_installed_and_what_to_install(ours):
    with pytest.raises(KeyError) as error:
        engines.get("mottor")
    message = str(error.value)
    assert "'mottor'" in message and "did you mean 'motor'?" in message
    assert "loose, motor, number, starred, truck" in message and "kinema.test_engine" in message


def test_unknown_name_where_nothing_is_installed(install):
    install()
    with pytest.raises(KeyError, match="installed are none"):
        engines.origin("motor")


def test_object_of_another_kind_is_refused(ours, install):
    with pytest.raises(TypeError, match="not a Engine"):
        engines.get("number")
    install(point("tyre", "parts:Tyre"))
    with pytest.raises(TypeError, match="Tyre.*not a Engine"):
        engines.get("tyre")


def test_two_distributions_with_one_name_clash(ours, install):
    install(point("motor", "parts:Motor", "acme"), point("motor", "parts:Truck", "ours"), point("truck", "parts:Truck"))
    assert engines.clashes() == {"motor": ["acme", "ours"]}
    assert engines.names() == ["motor", "truck"]
    for ask in (engines.get, engines.origin, lambda name: engines.build({"name": name})):
        with pytest.raises(LookupError, match="claimed by acme and ours"):
            ask("motor")
    assert engines.get("truck") is Truck


def test_a_name_seen_twice_with_one_object_is_no_clash(ours, install):
    install(point("motor", "parts:Motor"), point("motor", "parts:Motor"))
    assert engines.clashes() == {} and engines.get("motor") is Motor


def test_build_passes_keyword_arguments_and_leaves_the_config_alone(ours):
    config = {"name": "motor", "depth": 3, "rate": 2.0}
    assert engines.build(config) == Motor(depth=3, rate=2.0)
    assert config == {"name": "motor", "depth": 3, "rate": 2.0}


def test_parameters_are_the_config_schema(ours):
    parameters = engines.parameters("motor")
    assert list(parameters) == ["depth", "width", "rate"]
    assert parameters["width"].default == 4 and parameters["depth"].default is parameters["depth"].empty


def test_unknown_key_names_the_nearest_and_the_accepted(ours):
    with pytest.raises(
        ValueError, match=r"dept is no setting of 'motor' \(did you mean 'depth'\?\); .*depth, width, rate"
    ):
        engines.build({"name": "motor", "dept": 3})


def test_derived_values_are_passed_where_accepted_and_refused_in_the_config(ours):
    assert engines.build({"name": "motor", "depth": 1}, width=7, unused=3) == Motor(1, width=7)
    with pytest.raises(ValueError, match=r"test_engine\.width is read off the other components"):
        engines.build({"name": "motor", "depth": 1, "width": 7}, width=7)
    with pytest.raises(ValueError, match=r"unused is read off"):
        engines.build({"name": "motor", "depth": 1, "unused": 7}, unused=3)
    with pytest.raises(ValueError, match=r"it accepts depth, rate$"):
        engines.build({"name": "motor", "zzz": 1}, width=7)


def test_missing_values_are_named(ours):
    with pytest.raises(ValueError, match="'motor' needs a value for depth"):
        engines.build({"name": "motor"})


@pytest.mark.parametrize("config", [{}, {"depth": 1}, {"name": None}, {"name": 3}])
def test_a_config_without_a_name_lists_the_known_ones(ours, config):
    with pytest.raises(ValueError, match=r"needs a name; known are loose, motor"):
        engines.build(config)


def test_nested_components_are_built_for_interface_parameters_only(ours):
    tyre = {"name": "tyre", "radius": 2.0}
    truck = engines.build({"name": "truck", "wheel": tyre, "spare": tyre, "cargo": tyre})
    assert truck == Truck(Tyre(2.0), spare=Tyre(2.0), cargo=tyre)
    with pytest.raises(ValueError, match=r"test_wheel\.radios is no setting of 'tyre' \(did you mean 'radius'\?\)"):
        engines.build({"name": "truck", "wheel": {"name": "tyre", "radios": 2.0}})


@pytest.mark.parametrize("name", ["loose", "starred"])
def test_open_ended_constructors_are_refused(ours, name):
    with pytest.raises(TypeError, match="config schema"):
        engines.build({"name": name})


def test_nearest_says_nothing_where_nothing_is_close():
    assert nearest("zebra", ["depth", "width"]) == ""
    assert nearest("witdh", ["depth", "width"]) == " (did you mean 'width'?)"


def test_import_loads_no_framework():
    heavy = ["lightning", "pytorch_lightning", "transformers", "mlflow", "open_clip", "torchvision", "omegaconf"]
    script = f"import sys, kinema_core; kinema_core.vaes.names(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
