"""Folders of diffusers' `WanTransformer3DModel` to `VideoDiT` and back, without diffusers.

Queries, keys and values are one layer here, and the pairs that rotary positions turn stand apart instead of side by
side: weights are put together and reordered, so a round trip gives the same bits.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from kinema_core import diffusers_folder
from torch import Tensor

from kinema_dit.video_dit import VideoDiT

CLASS_NAME = "WanTransformer3DModel"
#: The features per cell that image-to-video models get beside the latents, in `Conditioning.cells`.
CELLS = "source"
#: What the class takes for a key that its config.json leaves out.
_DEFAULTS: Mapping[str, Any] = {
    "patch_size": [1, 2, 2],
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 13824,
    "num_layers": 40,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "image_dim": None,
    "added_kv_proj_dim": None,
    "pos_embed_seq_len": None,
}
#: What all of Wan's models have, and this network is built for.
_FIXED = {key: _DEFAULTS[key] for key in ("freq_dim", "cross_attn_norm", "qk_norm", "eps")}


def load_wan(folder: str | Path) -> VideoDiT:
    """A transformer with the settings and weights of a diffusers folder: Wan 2.1 and 2.2, text or image to video.

    Image-to-video models take features per cell under the name "source": those of `in_channels` that are no latents.
    Their CLIP features, where they have any, are the last of the text streams.

    Args:
        folder: holds config.json and diffusion_pytorch_model.safetensors (in one file or several).

    Raises:
        ValueError: no such folder, another architecture, weights that are missing, unknown, of another shape or not
            finite, or a file that ends too early. All in one line.
    """
    dit = VideoDiT(**wan_settings(folder))
    state, names = dit.state_dict(), dict(parts_of(dit))
    theirs = diffusers_folder.read_weights(folder, {name: value.shape for name, value in _theirs(dit).items()})
    ours = {own: to_ours(own, [theirs[name] for name in names[own]], value, dit) for own, value in state.items()}
    dit.load_state_dict(ours)
    return dit.eval()


def save_wan(dit: VideoDiT, folder: str | Path) -> None:
    """Write a transformer of the layout "wan" as a folder that diffusers' `WanTransformer3DModel` loads.

    Raises:
        ValueError: another layout, or settings that Wan's network does not have.
    """
    config = _config(dit)
    diffusers_folder.write(folder, config, _theirs(dit))


def wan_settings(folder: str | Path) -> dict[str, Any]:
    """Keyword arguments of `VideoDiT` for a folder of diffusers. ValueError as `load_wan` raises it."""
    config = diffusers_folder.read_config(folder, CLASS_NAME, _DEFAULTS)
    wrong = {key: config[key] for key, value in _FIXED.items() if config[key] != value}
    if wrong or config["pos_embed_seq_len"] is not None:
        raise ValueError(f"{folder}: {wrong or 'pos_embed_seq_len'} is none of Wan's text and image to video models")
    heads, channels = config["num_attention_heads"], config["out_channels"]
    width = heads * config["attention_head_dim"]
    source = config["in_channels"] - channels
    return {
        "latent_channels": channels,
        "text_widths": (config["text_dim"],),
        "pooled_widths": (None,),
        "cell_widths": {CELLS: source} if source else {},
        "image_width": config["image_dim"],
        "width": width,
        "depth": config["num_layers"],
        "num_heads": heads,
        "patch": config["patch_size"],
        "ffn_ratio": config["ffn_dim"] / width,
        "layout": "wan",
    }


def _config(dit: VideoDiT) -> dict[str, Any]:
    block = dit.blocks[0]
    if not dit.wan or block.cross is None or len(dit.embed_text) != 1 or dit.clip_names or len(dit.cell_names) > 1:
        raise ValueError(
            f"only the layout wan with one text encoder can be a {CLASS_NAME}, without features per clip and with at "
            "most one per cell"
        )
    patch = dit.patch
    cells = patch[0] * patch[1] * patch[2]
    image = None if dit.embed_image is None else dit.embed_image[1].in_features
    return {
        "_class_name": CLASS_NAME,
        **_DEFAULTS,
        "patch_size": list(patch),
        "num_attention_heads": block.settings.num_heads,
        "attention_head_dim": dit.head_width,
        "in_channels": dit.embed.in_features // cells,
        "out_channels": dit.project.out_features // cells,
        "text_dim": dit.embed_text[0][0].in_features,
        "ffn_dim": block.up.out_features,
        "num_layers": len(dit.blocks),
        "image_dim": image,
        "added_kv_proj_dim": None if image is None else block.settings.width,
        "rope_max_seq_len": 1024,
    }


#: Our layers and theirs; where there are several, ours is all of theirs in one.
_OUTER = {
    "embed": ["patch_embedding"],
    "embed_noise.0": ["condition_embedder.time_embedder.linear_1"],
    "embed_noise.2": ["condition_embedder.time_embedder.linear_2"],
    "modulate": ["condition_embedder.time_proj"],
    "embed_text.0.0": ["condition_embedder.text_embedder.linear_1"],
    "embed_text.0.2": ["condition_embedder.text_embedder.linear_2"],
    "embed_image.0": ["condition_embedder.image_embedder.norm1"],
    "embed_image.1": ["condition_embedder.image_embedder.ff.net.0.proj"],
    "embed_image.3": ["condition_embedder.image_embedder.ff.net.2"],
    "embed_image.4": ["condition_embedder.image_embedder.norm2"],
    "final_table": ["scale_shift_table"],
    "project": ["proj_out"],
}
_INNER = {
    "table": ["scale_shift_table"],
    "qkv": ["attn1.to_q", "attn1.to_k", "attn1.to_v"],
    "qk_scale": ["attn1.norm_q.weight", "attn1.norm_k.weight"],
    "attention_out": ["attn1.to_out.0"],
    "cross.norm": ["norm2"],
    "cross.q": ["attn2.to_q"],
    "cross.kv": ["attn2.to_k", "attn2.to_v"],
    "cross.q_scale": ["attn2.norm_q.weight"],
    "cross.k_scale": ["attn2.norm_k.weight"],
    "cross.kv_image": ["attn2.add_k_proj", "attn2.add_v_proj"],
    "cross.k_image_scale": ["attn2.norm_added_k.weight"],
    "cross.out": ["attn2.to_out.0"],
    "up": ["ffn.net.0.proj"],
    "down": ["ffn.net.2"],
}


def parts_of(dit: VideoDiT, weights: Iterable[str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """(our name, their names) of every weight, or of some."""
    for own in dit.state_dict() if weights is None else weights:
        layer, dot, kind = own.rpartition(".")
        prefix, names, inner = "", _OUTER, own
        if own.startswith("blocks."):
            _, number, inner = own.split(".", 2)
            prefix, names = f"blocks.{number}.", _INNER
            layer, dot, kind = inner.rpartition(".")
        if inner in names:
            yield own, [prefix + name for name in names[inner]]
        else:
            yield own, [f"{prefix}{name}{dot}{kind}" for name in names[layer]]


def _theirs(dit: VideoDiT) -> dict[str, Tensor]:
    """All weights by their names."""
    state, found = dit.state_dict(), {}
    for own, names in parts_of(dit):
        found |= to_theirs(own, names, state[own], dit)
    return found


def to_theirs(own: str, names: list[str], value: Tensor, dit: VideoDiT) -> dict[str, Tensor]:
    """One of our weights as theirs by name."""
    if own == "embed.weight":
        return {names[0]: value.unflatten(1, (*dit.patch, -1)).movedim(4, 1)}
    if own.endswith("table"):
        return {names[0]: value[None]}
    if own.endswith("qk_scale"):
        return {name: _paired(part).flatten() for name, part in zip(names, value, strict=True)}
    if own.endswith("_scale"):
        return {names[0]: value.flatten()}
    found = dict(zip(names, value.chunk(len(names)), strict=True))
    if ".qkv." in own:
        for name in names[:2]:
            found[name] = _paired(found[name].unflatten(0, (-1, dit.head_width))).flatten(0, 1)
    return found


def to_ours(own: str, values: list[Tensor], like: Tensor, dit: VideoDiT) -> Tensor:
    """The inverse of `to_theirs`."""
    if own == "embed.weight":
        return values[0].movedim(1, 4).flatten(1)
    if own.endswith("table"):
        return values[0][0]
    if own.endswith("qk_scale"):
        return torch.stack([_apart(value.view(like.shape[1:])) for value in values])
    if own.endswith("_scale"):
        return values[0].view_as(like)
    if ".qkv." in own:
        q, k, v = values
        values = [*(_apart(x.unflatten(0, (-1, dit.head_width))).flatten(0, 1) for x in (q, k)), v]
    return torch.cat(values)


def _apart(heads: Tensor) -> Tensor:
    """(H, E, ...), pairs side by side -> all firsts, then all seconds."""
    return heads.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)


def _paired(heads: Tensor) -> Tensor:
    """The inverse of `_apart`."""
    return heads.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
