"""Folders in which diffusers or transformers saved a model, read without them: config.json and safetensors files.

`read_weights` needs the package safetensors, which converters depend on and this package does not.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WEIGHTS = "diffusion_pytorch_model.safetensors"


def read_config(folder: str | Path, class_name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in config.json over `defaults`.

    Raises:
        ValueError: no config.json, or that of another class.
    """
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise ValueError(f"{folder} holds no config.json; give a folder that diffusers saved an {class_name} in")
    config = json.loads(file.read_text())
    found = config.get("_class_name")
    if found != class_name:
        raise ValueError(f"{folder} holds a {found}, not an {class_name}")
    return {**defaults, **config}


def read_weights(
    folder: str | Path, shapes: Mapping[str, Iterable[int]], *, name: str = WEIGHTS, prefix: str = ""
) -> dict[str, Tensor]:
    """All weights by name, from one file or several.

    Args:
        folder: where they are.
        shapes: what the network has by name; it is what the files must hold.
        name: of the one file; an index beside it, NAME.index.json, says that there are several.
        prefix: what names may have in front, and some version of the library left out.

    Raises:
        ValueError: a file is missing or ends too early; weights are missing, unknown, of another shape or not finite.
    """
    from safetensors import SafetensorError  # noqa: PLC0415  not a dependency of this package
    from safetensors.torch import load_file  # noqa: PLC0415

    path, files = Path(folder), [name]
    index = path / f"{name}.index.json"
    if index.is_file():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    weights: dict[str, Tensor] = {}
    for file in files:
        if not (path / file).is_file():
            raise ValueError(f"{path} holds no {file}")
        try:
            weights |= {key.removeprefix(prefix): value for key, value in load_file(path / file).items()}
        except SafetensorError as error:
            raise ValueError(f"{path / file} cannot be read, it may be half written: {error}") from error
    missing, extra = set(shapes) - set(weights), set(weights) - set(shapes)
    if missing or extra:
        raise ValueError(f"{path}: weights missing: {_listed(missing)}; unknown: {_listed(extra)}")
    for key, shape in shapes.items():
        if weights[key].shape != torch.Size(shape):
            raise ValueError(f"{path}: {key} is of shape {list(weights[key].shape)}, not {list(shape)}")
        if not torch.isfinite(weights[key]).all():
            raise ValueError(f"{path}: {key} holds NaN or infinity")
    return weights


def write(folder: str | Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write a folder that diffusers loads."""
    from safetensors.torch import save_file  # noqa: PLC0415  not a dependency of this package

    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, path / WEIGHTS, metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _listed(names: set[str]) -> str:
    some = sorted(names)
    return (", ".join(some[:8]) + (f" and {len(some) - 8} more" if len(some) > 8 else "")) or "none"
