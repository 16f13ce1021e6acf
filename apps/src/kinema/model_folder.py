"""Model folders: `kinema.yaml` and the weights of each component in a sub-folder, safetensors and text only.

kinema.yaml               components: {key: {name, settings, files, distribution, version, weights}}, derived, training
vae/model.safetensors
text.main/model.safetensors
text.main/tokenizer.json  a copy of a file that a setting of the component names
"""

import hashlib
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import yaml
from kinema_core import Registry, nearest
from safetensors.torch import save_file
from torch import nn

from kinema.components import FROM, WIDTHS, build, derived_widths, load_weights, registries
from kinema.config import Node, merge_node, parse_words
from kinema.errors import ConfigError
from kinema.yaml_text import read_file

MAIN = "kinema.yaml"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Model:
    """A loaded model folder.

    Attributes:
        components: the built components by key: {"vae": ..., "text.main": ..., "diffusion": ...}.
        nodes: their config nodes.
        facts: what training left about itself.
        hash: sha256 of all that was read; goes into generated files.
    """

    components: dict[str, Any]
    nodes: dict[str, Node]
    facts: dict[str, Any]
    hash: str

    def of_kind(self, kind: str) -> tuple[Any, ...]:
        """The components of a kind in the order in which they were saved: "text" gives all text encoders."""
        return tuple(component for key, component in self.components.items() if _kind(key) == kind)


def save_model(
    folder: str | Path,
    components: Mapping[str, tuple[Node, Any]],
    *,
    facts: Mapping[str, Any] | None = None,
    derived: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model folder under a temporary name, then rename it; an older model of this name is replaced.

    Args:
        folder: where to.
        components: {key: (config node, built component)}. A key is a kind ("vae"), or one with a label ("text.main")
            where there are several. Weights are saved of those that are modules; so are the files that settings of
            theirs name, where the component lists such settings in `files`.
        facts: plain values about the training: steps, data, law, ...
        derived: what the constructors were given and `derived_widths` cannot read off VAE and text encoders.

    Raises:
        ConfigError: the folder exists and is no model folder, or a module's state is more than tensors.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / MAIN).exists():
        raise ConfigError(f"{folder} exists and is no model folder; choose another name")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        entries = {key: _saved(temporary, key, *item) for key, item in components.items()}
        content = {"format": 1, "components": entries, "derived": _plain(derived), "training": _plain(facts)}
        (temporary / MAIN).write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
        _replace(folder, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def load_model(
    source: str | Path, *, require: Sequence[str] = (), check_versions: bool = True, settings: Sequence[str] = ()
) -> Model:
    """Build the components of a model folder, modules in eval mode on the CPU.

    Args:
        source: a path or an fsspec URL; hf://owner/name is a repository of Hugging Face.
        require: kinds that have to be in it.
        check_versions: refuse components saved by another minor version (major from 1.0 on); False only warns.
        settings: over those of the folder, as ["dit.attention=window", "sampler.name=euler"]; the name only of what
            has no weights.

    Raises:
        ConfigError: no model folder, a component missing or not installed, other weights or another version, or a
            setting of no component.
    """
    with _fetched(str(source)) as (folder, content):
        entries = _changed(content["components"], settings, source)
        for kind in require:
            if not any(_kind(key) == kind for key in entries):
                raise ConfigError(f"{source} has no {kind} component; it has {', '.join(entries) or 'none'}")
        built: dict[str, Any] = {}
        # VAE and text encoders first: the others' widths are read off them.
        for key in sorted(entries, key=lambda key: _kind(key) not in ("vae", "text")):
            registry = _checked(source, key, entries[key], check_versions=check_versions)
            derived = {} if _kind(key) in ("vae", "text") else _derived(built, content["derived"] or {})
            built[key] = _built(registry, folder, key, entries[key], derived)
        nodes = {key: {"name": entry["name"], **entry["settings"]} for key, entry in entries.items()}
        ordered = {key: built[key] for key in entries}
        return Model(ordered, nodes, content["training"] or {}, _hash(folder, entries))


def model_hash(source: str | Path) -> str:
    """The hash that `load_model` gives, without building anything."""
    with _fetched(str(source)) as (folder, content):
        return _hash(folder, content["components"])


def _changed(entries: Mapping[str, Any], words: Sequence[str], source: str | Path) -> dict[str, Any]:
    """The entries with settings over those of the folder."""
    changed = dict(entries)
    for key, layer in _by_component(parse_words(words), entries, source).items():
        entry = entries[key]
        node = merge_node({"name": entry["name"], **entry["settings"]}, layer, key)
        if node is None:
            raise ConfigError(f"{source} needs its {key}; it cannot be null")
        for setting in (*FROM, *entry.get("files", {})):
            if setting in node:
                raise ConfigError(f"{key}.{setting} cannot be set: weights and files are those of {source}")
        name = node.pop("name")
        changed[key] = {**entry, "name": name, "settings": node}
        if name != entry["name"]:
            if entry["weights"]:
                raise ConfigError(f"{source}: {key} has weights of {entry['name']!r}, so it cannot be {name!r}")
            distribution, version = registries()[_kind(key)].origin(name)
            changed[key] |= {"distribution": distribution, "version": version}
    return changed


def _by_component(
    layer: Mapping[str, Any], entries: Mapping[str, Any], source: str | Path, where: str = ""
) -> dict[str, Any]:
    """{"text": {"main": {...}}, "dit": {...}} -> {"text.main": {...}, "dit": {...}}."""
    found: dict[str, Any] = {}
    for part, value in layer.items():
        key = where + part
        group = isinstance(value, Mapping) and any(entry.startswith(f"{key}.") for entry in entries)
        if not (key in entries or group):
            raise ConfigError(f"{key} is no component of {source}{nearest(key, entries)}; it has {', '.join(entries)}")
        found |= {key: value} if key in entries else _by_component(value, entries, source, f"{key}.")
    return found


def _saved(temporary: Path, key: str, node: Node, component: Any) -> dict[str, Any]:
    """Write one component's weights; its entry in the main file."""
    registry = registries().get(_kind(key))
    if registry is None or not re.fullmatch(r"\w+(\.[\w-]+)?", key):
        raise ConfigError(f"{key!r} is no kind of component; known are {', '.join(registries())}")
    if isinstance(component, nn.Module):
        # Tied weights are written twice: safetensors has no sharing.
        state = {name: value.detach().cpu().contiguous().clone() for name, value in component.state_dict().items()}
        (temporary / key).mkdir()
        save_file(state, temporary / key / WEIGHTS)
    distribution, version = registry.origin(node["name"])
    settings = _settings(registry, node)
    # What a preset says now it may not say in the next version.
    resolved = _plain(getattr(component, "settings", {}))
    settings |= {key: resolved[key] for key, value in settings.items() if value is None and key in resolved}
    files = {setting: settings.pop(setting) for setting in getattr(component, "files", ()) if settings.get(setting)}
    names = {setting: f"{setting}{Path(path).suffix}" for setting, path in files.items()}
    for setting, path in files.items():
        shutil.copyfile(path, temporary / key / names[setting])
    return {
        "name": node["name"],
        "settings": settings,
        **({"files": names} if files else {}),
        "distribution": distribution,
        "version": version,
        "weights": isinstance(component, nn.Module),
    }


def _settings(registry: Registry[Any], node: Node) -> dict[str, Any]:
    """All keyword arguments but the derived ones: a default may be another in the next version."""
    settings = {
        key: parameter.default
        for key, parameter in registry.parameters(node["name"]).items()
        if parameter.default is not parameter.empty and (key not in WIDTHS or registry.kind == "vae")
    }
    settings |= {key: value for key, value in node.items() if key not in ("name", *FROM)}
    return _plain(settings)


def _replace(folder: Path, temporary: Path) -> None:
    old = temporary.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _fetched(source: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder as a local one, and its main file; what is remote is copied for the time of the block."""
    if "://" not in source:
        content = _main_file(Path(source), source)
        _require_files(Path(source), content, source)
        yield Path(source), content
        return
    files, root = fsspec.url_to_fs(source)
    with tempfile.TemporaryDirectory(prefix="kinema-model-") as name:
        folder = Path(name)
        _copy(files, f"{root}/{MAIN}", folder / MAIN)
        content = _main_file(folder, source)
        for key, entry in content["components"].items():
            for file in _names(entry):
                (folder / key).mkdir(exist_ok=True)
                _copy(files, f"{root}/{key}/{file}", folder / key / file)
        _require_files(folder, content, source)
        yield folder, content


def _copy(files: fsspec.AbstractFileSystem, path: str, to: Path) -> None:
    """Copy what is there; what is not is told by whoever looks for the copy."""
    try:
        files.get_file(path, str(to))
    except FileNotFoundError:
        to.unlink(missing_ok=True)


def _main_file(folder: Path, source: str) -> dict[str, Any]:
    if not (folder / MAIN).is_file():
        raise ConfigError(f"{source} is no model folder: it has no {MAIN}")
    content = read_file(str(folder / MAIN))
    if content.get("format") != 1:
        raise ConfigError(f"{source} has model format {content.get('format')!r}; this version of kinema reads 1")
    for key, entry in content["components"].items():
        for name in _names(entry):
            if Path(name).name != name or name == "..":
                raise ConfigError(f"{source}: {key} names a file {name!r}; it has to lie beside the weights")
        # Keys are names of folders here.
        if not re.fullmatch(r"\w+(\.[\w-]+)?", key) or _kind(key) not in registries():
            raise ConfigError(f"{source}: {key!r} is no kind of component; known are {', '.join(registries())}")
    return content


def _require_files(folder: Path, content: Mapping[str, Any], source: str) -> None:
    for key, entry in content["components"].items():
        for name in _names(entry):
            if not (folder / key / name).is_file():
                what = "the weights" if name == WEIGHTS else "a file"
                raise ConfigError(f"{source} lacks {what} of {key}: there is no {key}/{name}")


def _names(entry: Mapping[str, Any]) -> list[str]:
    """The files of a component, in the sub-folder of its key."""
    return [*([WEIGHTS] if entry["weights"] else []), *entry.get("files", {}).values()]


def _checked(source: Any, key: str, entry: Mapping[str, Any], *, check_versions: bool) -> Registry[Any]:
    """The registry of an entry, once its distribution and version are found to fit."""
    registry = registries()[_kind(key)]
    saved = (entry["distribution"], entry["version"])
    if entry["name"] not in registry.names():
        raise ConfigError(f"{source} needs {key} {entry['name']!r} of {saved[0]} {saved[1]}; install {saved[0]}")
    installed = registry.origin(entry["name"])
    if saved[0] != installed[0] or _generation(saved[1]) != _generation(installed[1]):
        message = (
            f"{source}: {key} {entry['name']!r} was saved by {' '.join(saved)}, but {' '.join(installed)} is installed"
        )
        if check_versions:
            raise ConfigError(f"{message}; install {saved[0]} {'.'.join(_generation(saved[1]))}.*")
        warnings.warn(message, stacklevel=3)
    return registry


def _built(registry: Registry[Any], folder: Path, key: str, entry: Mapping[str, Any], derived: dict[str, Any]) -> Any:
    files = {setting: str(folder / key / name) for setting, name in entry.get("files", {}).items()}
    component = build(registry, {"name": entry["name"], **entry["settings"], **files}, **derived)
    if entry["weights"]:
        load_weights(component, str(folder / key / WEIGHTS), where=f"{key} {entry['name']!r}")
        component.eval()
    return component


def _derived(built: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    vae = next((component for key, component in built.items() if _kind(key) == "vae"), None)
    text = [component for key, component in built.items() if _kind(key) == "text"]
    return {**(derived_widths(vae, text) if vae is not None else {}), **saved}


def _generation(version: str) -> tuple[str, ...]:
    """What has to be equal for two versions to be compatible: (0, minor), or (major,) from 1.0 on."""
    parts = version.split(".")
    return tuple(parts[:2]) if parts[0] == "0" else (parts[0],)


def _kind(key: str) -> str:
    return key.partition(".")[0]


def _hash(folder: Path, entries: Mapping[str, Any]) -> str:
    total = hashlib.sha256()
    for name in (MAIN, *(f"{key}/{name}" for key, entry in entries.items() for name in _names(entry))):
        with (folder / name).open("rb") as file:
            total.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _plain(value: Any) -> Any:
    """Nested dicts, lists and scalars, as YAML has them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
