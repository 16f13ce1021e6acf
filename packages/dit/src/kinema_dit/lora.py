"""Low-rank adapters (LoRA, Hu et al. 2021) of a transformer's blocks, trained with peft (the extra `lora`).

Files have the keys of diffusers: transformer.NAME.lora_A.weight (rank, in) and lora_B.weight (out, rank), with
diffusers' names for the layout "wan", so that either library loads what the other wrote, and our own names otherwise.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from kinema_core import nearest
from torch import Tensor, nn

from kinema_dit.video_dit import VideoDiT
from kinema_dit.wan_weights import parts_of, to_ours, to_theirs

#: The linear layers of a block, by the last part of their name; a text stream of its own has no adapters.
LORA_TARGETS = ("qkv", "attention_out", "cross.q", "cross.kv", "cross.out", "up", "down")
PREFIX = "transformer."


def add_lora(dit: VideoDiT, rank: int, *, alpha: float | None = None, targets: Sequence[str] = LORA_TARGETS) -> None:
    """Put an adapter beside linear layers of the blocks, which begins as zero, and freeze everything else.

    Args:
        dit: changed in place.
        rank: of the adapters.
        alpha: an adapter's output is times alpha / rank; None: alpha is the rank.
        targets: which of `LORA_TARGETS`.

    Raises:
        ValueError: peft is not installed, a rank below 1, or an unknown target.
    """
    if rank < 1:
        raise ValueError(f"the rank of LoRA is {rank}; it starts at 1")
    for target in targets:
        if target not in LORA_TARGETS:
            raise ValueError(
                f"{target!r} is no layer for LoRA{nearest(target, LORA_TARGETS)}; known: {', '.join(LORA_TARGETS)}"
            )
    try:
        from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ValueError("LoRA needs peft: pip install 'kinema-dit[lora]'") from error
    names = "|".join(target.replace(".", r"\.") for target in targets)
    config = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=rf"blocks\.\d+\.({names})")
    inject_adapter_in_model(config, dit)


def merge_lora(dit: VideoDiT) -> None:
    """Add the adapters to the weights beside them and take them away: the network is a plain one again."""
    for name, layer in list(_adapted(dit)):
        layer.merge()
        parent, _, own = name.rpartition(".")
        setattr(dit.get_submodule(parent), own, layer.get_base_layer())
    dit.requires_grad_(True)


def save_lora(dit: VideoDiT, file: str | Path) -> None:
    """Write the adapters as safetensors that diffusers loads; alpha / rank is multiplied into them.

    Raises:
        ValueError: there are none.
    """
    from safetensors.torch import save_file  # noqa: PLC0415  late, like peft

    names = dict(parts_of(dit, [f"{name}.weight" for name, _ in _adapted(dit)])) if dit.wan else {}
    weights: dict[str, Tensor] = {}
    for name, layer in _adapted(dit):
        own = f"{name}.weight"
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight * layer.scaling["default"]
        # Rows of `up` are rows of the weight: they are cut and reordered alike.
        for other, value in (to_theirs(own, names[own], up, dit) if dit.wan else {own: up}).items():
            layer_name = other.removesuffix(".weight")
            weights[f"{PREFIX}{layer_name}.lora_A.weight"] = down.detach().cpu().clone()
            weights[f"{PREFIX}{layer_name}.lora_B.weight"] = value.detach().cpu().contiguous()
    if not weights:
        raise ValueError("the transformer has no adapters to save; add_lora puts them in")
    save_file(weights, file, metadata={"format": "pt"})


def load_lora(dit: VideoDiT, file: str | Path, *, scale: float = 1.0) -> None:
    """Add the adapters of a file to the weights of a plain network.

    Args:
        dit: changed in place.
        file: safetensors in diffusers' keys.
        scale: times the adapters.

    Raises:
        ValueError: keys that are no adapters of this network, halves without the other, other shapes, or adapters
            that peft scales layer by layer. The network is then as it was.
    """
    from safetensors.torch import load_file  # noqa: PLC0415  late, like peft

    scale = scale * _scaling(file)
    pairs: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in load_file(file).items():
        layer, dot, half = key.removeprefix(PREFIX).rpartition(".lora_")
        if not dot or half not in ("A.weight", "B.weight"):
            raise ValueError(f"{file}: {key} is no adapter: keys end in .lora_A.weight or .lora_B.weight")
        pairs[f"{layer}.weight"][half[0]] = value.float()
    state = dit.state_dict()
    names = dict(parts_of(dit, state)) if dit.wan else {own: [own] for own in state}
    changes: dict[str, Tensor] = {}
    for own, others in names.items():
        found = [pairs.pop(other, None) for other in others]
        if any(found):
            shapes = _shapes(own, others, state, dit)
            parts = [_product(pair, like, file) for pair, like in zip(found, shapes, strict=True)]
            changes[own] = to_ours(own, parts, state[own], dit) if dit.wan else parts[0]
    if pairs:
        raise ValueError(f"{file}: the network has no {', '.join(sorted(pairs)[:5])}")
    for own, change in changes.items():
        state[own] += scale * change.to(state[own])


def _scaling(file: str | Path) -> float:
    """alpha / rank, where the file's metadata has them, as diffusers writes it."""
    from safetensors import safe_open  # noqa: PLC0415  late, like peft

    with safe_open(file, "pt") as opened:
        text = (opened.metadata() or {}).get("lora_adapter_metadata", "{}")
    said = {key.removeprefix(PREFIX): value for key, value in json.loads(text).items()}
    if said.get("use_rslora") or said.get("alpha_pattern") or said.get("rank_pattern"):
        raise ValueError(f"{file}: its adapters are scaled layer by layer; merge them with diffusers first")
    return said["lora_alpha"] / said["r"] if "r" in said and "lora_alpha" in said else 1.0


def _product(pair: dict[str, Tensor] | None, shape: torch.Size, file: str | Path) -> Tensor:
    """B A, or zeros where there is no adapter."""
    if pair is None:
        return torch.zeros(shape)
    if set(pair) != {"A", "B"}:
        raise ValueError(f"{file}: an adapter lacks one of lora_A and lora_B")
    change = pair["B"] @ pair["A"] if pair["B"].shape[-1] == pair["A"].shape[0] else pair["B"]
    if change.shape != shape:
        raise ValueError(f"{file}: an adapter is of shape {list(change.shape)}, not {list(shape)}")
    return change


def _shapes(own: str, others: list[str], state: dict[str, Tensor], dit: VideoDiT) -> list[torch.Size]:
    """Of the weights that ours consists of."""
    if not dit.wan:
        return [state[own].shape]
    theirs = to_theirs(own, others, state[own], dit)
    return [theirs[other].shape for other in others]


def _adapted(dit: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, layer) of every layer with an adapter."""
    for name, module in dit.named_modules():
        if hasattr(module, "lora_A"):
            yield name, module
