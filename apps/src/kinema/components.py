"""Components by name: checked, built and loaded from config nodes, and described for the user."""

import importlib
import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import kinema_core
from kinema_core import Registry, TextEncoder, VideoVAE, nearest
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kinema.errors import ConfigError
from kinema.typed import fit, spelled

T = TypeVar("T")

#: Read off the built components and the data, never set.
WIDTHS = ("latent_channels", "text_widths", "pooled_widths", "cell_widths", "clip_widths")

#: Keys of any component: where its weights come from. They are no settings, and no part of a model folder.
FROM = ("weights", "init_from")
#: Kinds that can begin from a folder in which diffusers saved a part of Wan, and the package whose `load_wan` reads it.
CONVERTERS = {"vae": "kinema_vae", "dit": "kinema_dit"}


@cache
def registries() -> dict[str, Registry[Any]]:
    """All registries of kinema_core by kind: {"vae": vaes, ...}."""
    return {found.kind: found for found in vars(kinema_core).values() if isinstance(found, Registry)}


def build(registry: Registry[T], node: Mapping[str, Any], **derived: Any) -> T:
    """Build the component of a config node, and load its weights where the node has `weights` or `init_from`.

    Args:
        registry: of the component's kind.
        node: {"name": ..., "weights": ..., "init_from": ..., **keyword arguments}. `weights` is the path or URL of a
            file, `init_from` a model folder that has such a component, or a VAE or transformer of Wan
            as diffusers saved it.
        derived: what is read off other components; the constructor gets those that it takes.

    Raises:
        ConfigError: an unknown or broken component, an unknown key, a value it refuses, or weights of another one.
    """
    node = check(registry, node)
    weights, folder = (node.pop(key, None) for key in FROM)
    try:
        component = registry.build(node, **derived)
    except (ValueError, LookupError) as error:
        raise ConfigError(_prefixed(registry.kind, error)) from error
    if weights is not None:
        load_weights(component, weights, where=f"{registry.kind} {node['name']!r}")
    if folder is not None:
        _init_from(component, Path(folder), registry.kind)
    return component


def _init_from(module: Any, folder: Path, kind: str) -> None:
    """Load what `folder` holds of this kind."""
    if kind in CONVERTERS and (folder / "config.json").is_file():
        package = importlib.import_module(CONVERTERS[kind])  # late: no listing of components needs it
        try:
            state = package.load_wan(folder).state_dict()
        except ValueError as error:
            raise ConfigError(f"{kind}.init_from: {error}") from error
        check_state(state, module, source=f"{kind}.init_from: {folder}")
        module.load_state_dict(state)
    else:
        # One of several text encoders is in a folder with its label, text.main.
        found = [place for place in (folder / kind, *sorted(folder.glob(f"{kind}.*"))) if place.is_dir()]
        if len(found) > 1:
            names = ", ".join(str(place / "model.safetensors") for place in found)
            raise ConfigError(f"{kind}.init_from: {folder} holds several; set weights to one of {names}")
        source = found[0] if found else folder / kind
        load_weights(module, str(source / "model.safetensors"), where=f"{kind}.init_from")


def check(registry: Registry[Any], node: Mapping[str, Any], *, where: str | None = None) -> dict[str, Any]:
    """A copy of `node` with its values fitted to the constructor's annotations; nested components too.

    Args:
        registry: of the component's kind.
        node: as for `build`.
        where: the node's key in the config, for the message; the kind by default.

    Raises:
        ConfigError: no or an unknown name, an unknown key, a wrong type.
    """
    where, name = where or registry.kind, node.get("name")
    if not isinstance(name, str):
        known = ", ".join(registry.names()) or "none"
        raise ConfigError(f"{where} needs a name ({where}.name=...); known are {known}")
    component = get(registry, name, where=where)
    accepted = registry.parameters(name)
    hints = typing.get_type_hints(component.__init__)
    fitted: dict[str, Any] = {"name": name}
    for key, value in node.items():
        path = f"{where}.{key}"
        if key in FROM and value is not None:
            fitted[key] = fit(value, str, path)
        elif key in _widths(registry):
            raise ConfigError(f"{path} is read off the other components; remove it from the config")
        elif key in accepted:
            nested = _registry_of(hints.get(key), value)
            fitted[key] = check(nested, value, where=path) if nested else fit(value, hints.get(key, Any), path)
        elif key not in ("name", *FROM):
            settings = [setting for setting in accepted if setting not in _widths(registry)]
            listed = ", ".join(settings) or "none"
            raise ConfigError(f"{path} is no setting of {name!r}{nearest(key, settings)}; it accepts {listed}")
    return fitted


def get(registry: Registry[T], name: str, *, where: str | None = None) -> type[T]:
    """The class registered as `name`.

    Raises:
        ConfigError: there is none, two distributions claim it, or the one that has it cannot be imported.
    """
    try:
        return registry.get(name)
    except (LookupError, TypeError) as error:
        raise ConfigError(_prefixed(where or registry.kind, error)) from error
    except Exception as error:  # whatever a stranger's package raises on import
        dist, version = registry.origin(name)
        raise ConfigError(
            f"{registry.kind} {name!r} of {dist} {version} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def load_weights(module: nn.Module, source: str, *, where: str) -> None:
    """Load a .safetensors file, local or at an fsspec URL, into `module`; every key has to fit.

    Raises:
        ConfigError: no such file, no safetensors, or the weights of another architecture (lists the keys).
    """
    if not source.endswith(".safetensors"):
        raise ConfigError(f"{where}: weights are read from .safetensors files only, not from {source}")
    try:
        # A remote file is copied to a temporary one, so that it is mapped into memory like a local one.
        state = load_file(fsspec.open_local(f"simplecache::{source}") if "://" in source else source)
    except FileNotFoundError:
        raise ConfigError(f"{where}: there are no weights at {source}") from None
    except SafetensorError as error:
        raise ConfigError(f"{where}: {source} is no whole safetensors file ({error})") from None
    try:
        # The module's own hooks may rename keys, so torch compares, not we.
        found = module.load_state_dict(state, strict=False)
        differences = {"missing": found.missing_keys, "unexpected": found.unexpected_keys}
    except RuntimeError as error:
        sizes = re.findall(r"size mismatch for (\S+): .*?Size\((.*?)\).*?Size\((.*?)\)", str(error))
        if not sizes:
            raise
        differences = {"mismatched": [f"{key} {saved} instead of {wanted}" for key, saved, wanted in sizes]}
    if any(differences.values()):
        raise ConfigError(f"{where}: {source} {_of_another(differences)}")


def check_state(state: Mapping[str, Tensor], module: nn.Module, *, source: str) -> None:
    """Refuse a state dict whose keys or shapes are not the module's, before anything is loaded.

    Raises:
        ConfigError: it is of another architecture; lists the keys.
    """
    expected = {key: list(value.shape) for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    found = {key: list(value.shape) for key, value in state.items() if isinstance(value, Tensor)}
    differences = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "mismatched": [
            f"{key} {found[key]} instead of {shape}"
            for key, shape in expected.items()
            if found.get(key, shape) != shape
        ],
    }
    if any(differences.values()):
        raise ConfigError(f"{source} {_of_another(differences)}")


def derived_widths(
    vae: VideoVAE,
    text: Sequence[TextEncoder],
    *,
    cell_widths: Mapping[str, int] | None = None,
    clip_widths: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """What a DiT's constructor is given beside its config.

    Args:
        vae: gives the latent channels.
        text: the encoders, in the order of their streams.
        cell_widths, clip_widths: widths of the data's features per latent cell and per clip, by name.
    """
    return {
        "latent_channels": vae.latent_channels,
        "text_widths": tuple(encoder.width for encoder in text),
        "pooled_widths": tuple(encoder.pooled_width for encoder in text),
        "cell_widths": dict(cell_widths or {}),
        "clip_widths": dict(clip_widths or {}),
    }


@dataclass(frozen=True)
class Setting:
    """A key of a component's config. `default` is None text where a value has to be given."""

    key: str
    type: str
    default: str | None
    meaning: str


@dataclass(frozen=True)
class Description:
    """What `kinema components NAME` shows."""

    kind: str
    name: str
    distribution: str
    version: str
    summary: str
    settings: tuple[Setting, ...]


def listing() -> list[tuple[str, str, str, str]]:
    """(kind, name, distribution, version) of every installed component; imports none of them.

    A name that several distributions claim has all of them in place of one, and "clash" as its version.
    """
    rows = []
    for kind, registry in registries().items():
        clashes = registry.clashes()
        for name in registry.names():
            dist, version = (" and ".join(clashes[name]), "clash") if name in clashes else registry.origin(name)
            rows.append((kind, name, dist, version))
    return rows


def describe(name: str) -> list[Description]:
    """The components of this name, one a kind that has it.

    Raises:
        ConfigError: no kind has it.
    """
    found = [registry for registry in registries().values() if name in registry.names()]
    if not found:
        known = sorted({row[1] for row in listing()})
        raise ConfigError(f"no component is named {name!r}{nearest(name, known)}; `kinema components` lists them")
    return [_description(registry, name) for registry in found]


def origins(nodes: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Tags for a tracker from {key: (kind, name)}: {"component.vae": "causal3d kinema-vae 0.1.0", ...}."""
    tags = {}
    for key, (kind, name) in nodes.items():
        dist, version = registries()[kind].origin(name)
        tags[f"component.{key}"] = f"{name} {dist} {version}"
    return tags


def _description(registry: Registry[Any], name: str) -> Description:
    component = get(registry, name)
    dist, version = registry.origin(name)
    text = inspect.cleandoc(component.__doc__ or "")
    meanings, hints = _meanings(text), typing.get_type_hints(component.__init__)
    settings = tuple(
        Setting(
            key,
            spelled(hints.get(key, Any)),
            None if parameter.default is parameter.empty else str(parameter.default),
            meanings.get(key, ""),
        )
        for key, parameter in registry.parameters(name).items()
        if key not in _widths(registry)
    )
    return Description(registry.kind, name, dist, version, text.partition("\n")[0], settings)


def _meanings(text: str) -> dict[str, str]:
    """{argument: what the "Args:" or "Attributes:" section of a docstring says of it}."""
    meanings: dict[str, str] = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)+)", text, re.MULTILINE):
        for key, meaning in re.findall(r"^    (\w+): ((?:.*)(?:\n {5,}.*)*)", section, re.MULTILINE):
            meanings[key] = " ".join(meaning.split())
    return meanings


def _widths(registry: Registry[Any]) -> tuple[str, ...]:
    # A VAE is what says how many latent channels there are.
    return WIDTHS[1:] if registry.kind == "vae" else WIDTHS


def _registry_of(hint: Any, value: Any) -> Registry[Any] | None:
    """The registry whose interface a parameter is annotated with, where the value is a node."""
    if isinstance(value, Mapping) and "name" in value:
        choices = (hint, *typing.get_args(hint))
        for registry in registries().values():
            if registry.interface in choices:
                return registry
    return None


def _prefixed(where: str, error: Exception) -> str:
    text = str(error.args[0]) if error.args else type(error).__name__
    return text if text.startswith((where, f"no {where}")) else f"{where}: {text}"


def _of_another(differences: Mapping[str, Sequence[str]]) -> str:
    listed = "; ".join(f"{kind} {_shortened(keys)}" for kind, keys in differences.items() if keys)
    return f"is a checkpoint of another architecture: {listed}"


def _shortened(keys: Sequence[str], most: int = 5) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")
