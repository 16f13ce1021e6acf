"""Folders of diffusers' `AutoencoderKLWan` to `Causal3D` and back, without diffusers.

Only names and shapes differ (a reshape, and the order of folded pixels), so a round trip gives the same bits.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from kinema_core import diffusers_folder
from torch import Tensor

from kinema_vae.causal3d import Causal3D

CLASS_NAME = "AutoencoderKLWan"
#: What `AutoencoderKLWan` takes for a key that its config.json leaves out.
_DEFAULTS: Mapping[str, Any] = {
    "base_dim": 96,
    "decoder_base_dim": None,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "is_residual": False,
    "in_channels": 3,
    "patch_size": None,
}


def load_wan(folder: str | Path) -> Causal3D:
    """A network with the settings, weights and whitening of a diffusers folder (Wan 2.1's or 2.2's layout).

    Args:
        folder: holds config.json and diffusion_pytorch_model.safetensors (in one file or several).

    Raises:
        ValueError: no such folder, another architecture, weights that are missing, unknown, of another shape or not
            finite, or a file that ends too early. All in one line.
    """
    config = diffusers_folder.read_config(folder, CLASS_NAME, _DEFAULTS)
    vae = Causal3D(**_settings(config))
    names, wanted = dict(_names(vae)), vae.state_dict()
    theirs = diffusers_folder.read_weights(
        folder, {other: _their_shape(wanted[own], other) for own, other in names.items()}
    )
    state = {own: _refolded(theirs[other].reshape(wanted[own].shape), own, vae) for own, other in names.items()}
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        vae.set_whitening(torch.tensor(mean), torch.tensor(std))
    vae.load_state_dict(state | {"latent_mean": vae.latent_mean, "latent_std": vae.latent_std})
    return vae.eval()


def save_wan(vae: Causal3D, folder: str | Path) -> None:
    """Write a network of the layout "wan" as a folder that diffusers' `AutoencoderKLWan.from_pretrained` loads.

    Raises:
        ValueError: another layout, or widths that are no multiples of the first.
    """
    config, state = _config(vae), vae.state_dict()
    theirs = {
        other: _refolded(state[own], own, vae).reshape(_their_shape(state[own], other)) for own, other in _names(vae)
    }
    diffusers_folder.write(folder, config, theirs)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `Causal3D`."""
    mult, patch = config["dim_mult"], config["patch_size"] or 1
    if config["attn_scales"] or mult[0] != 1 or config["in_channels"] != 3 * patch**2:
        raise ValueError(
            f"an {CLASS_NAME} with attn_scales {config['attn_scales']}, dim_mult {mult}, patch_size {patch} and "
            f"{config['in_channels']} input channels is none of Wan's; known are no attn_scales, a dim_mult that "
            "begins with 1, and 3 channels a pixel"
        )
    widths = {"widths": config["base_dim"], "decoder_widths": config["decoder_base_dim"] or config["base_dim"]}
    return {
        "preset": "wan22" if config["is_residual"] else "wan21",
        "latent_channels": config["z_dim"],
        "unshuffle": (1, patch, patch),
        "strides": [(1 + bool(halved), 2, 2) for halved in config["temperal_downsample"][: len(mult) - 1]],
        **{key: [base * m for m in mult] for key, base in widths.items()},
        "num_blocks": config["num_res_blocks"],
    }


def _config(vae: Causal3D) -> dict[str, Any]:
    settings = vae.settings
    widths, other = settings["widths"], settings["decoder_widths"]
    base, decoder_base = widths[0], other[0]
    mult = [width // base for width in widths]
    fits = [base * m for m in mult] == list(widths) and [decoder_base * m for m in mult] == list(other)
    if settings["layout"] != "wan" or not fits:
        raise ValueError(
            f"only the layout wan with widths in whole ratios can be an {CLASS_NAME}, not {settings['layout']} with "
            f"{list(widths)} and {list(other)}"
        )
    patch = settings["unshuffle"][1]
    return {
        "_class_name": CLASS_NAME,
        "base_dim": base,
        "decoder_base_dim": decoder_base if decoder_base != base else None,
        "z_dim": vae.latent_channels,
        "dim_mult": mult,
        "num_res_blocks": settings["num_blocks"],
        "attn_scales": [],
        "temperal_downsample": [stride[0] == 2 for stride in settings["strides"]],
        "dropout": 0.0,
        "latents_mean": vae.latent_mean.tolist(),
        "latents_std": vae.latent_std.tolist(),
        "is_residual": settings["shortcuts"],
        "in_channels": 3 * patch**2,
        "out_channels": 3 * patch**2,
        "patch_size": patch if patch > 1 else None,
        "scale_factor_temporal": vae.stride[0],
        "scale_factor_spatial": vae.stride[1],
    }


def _names(vae: Causal3D) -> Iterator[tuple[str, str]]:
    """(our name, their name) of every weight."""
    rules = [*_encoder_rules(vae), *_decoder_rules(vae)]
    for own in vae.state_dict():
        for prefix, other in rules:
            if own.startswith(f"{prefix}."):
                yield own, f"{other}.{_inner(own.removeprefix(f'{prefix}.'))}"
                break


def _encoder_rules(vae: Causal3D) -> Iterator[tuple[str, str]]:
    parts = ("", "conv_in", "down_blocks", "mid_block", "norm_out", "conv_out")
    yield from _middle("encoder.3", "encoder.mid_block")
    for i, level in enumerate(vae.encoder[2]):
        if vae.settings["shortcuts"]:
            yield from _level(level.level, f"encoder.2.{i}.level", f"encoder.down_blocks.{i}", "downsampler")
    yield from ((f"encoder.{i}", f"encoder.{name}") for i, name in enumerate(parts) if i)
    yield "encoder.6", "quant_conv"


def _decoder_rules(vae: Causal3D) -> Iterator[tuple[str, str]]:
    parts = ("", "conv_in", "mid_block", "", "norm_out", "conv_out")
    resampler = "upsampler" if vae.settings["shortcuts"] else "upsamplers.0"
    yield "decoder.0", "post_quant_conv"
    yield from _middle("decoder.2", "decoder.mid_block")
    for i, level in enumerate(vae.decoder[3]):
        inner, prefix = (level.level, ".level") if hasattr(level, "level") else (level, "")
        yield from _level(inner, f"decoder.3.{i}{prefix}", f"decoder.up_blocks.{i}", resampler)
    yield from ((f"decoder.{i}", f"decoder.{name}") for i, name in enumerate(parts) if name)


def _middle(own: str, other: str) -> Iterator[tuple[str, str]]:
    yield f"{own}.0", f"{other}.resnets.0"
    yield f"{own}.1", f"{other}.attentions.0"
    yield f"{own}.2", f"{other}.resnets.1"


def _level(layers: Any, own: str, other: str, resampler: str) -> Iterator[tuple[str, str]]:
    for j, layer in enumerate(layers):
        yield f"{own}.{j}", f"{other}.{resampler if hasattr(layer, 'conv') else f'resnets.{j}'}"


#: Within a residual block, an attention or a change of resolution: our name, theirs.
_INNER = {
    "body.0.gain": "norm1.gamma",
    "body.1": "conv1",
    "body.2.gain": "norm2.gamma",
    "body.3": "conv2",
    "shortcut": "conv_shortcut",
    "norm.gain": "norm.gamma",
    "qkv": "to_qkv",
    "project": "proj",
    "conv": "resample.1",
    "gain": "gamma",
}


def _inner(name: str) -> str:
    # Where levels have no shortcut, the encoder's blocks are numbered one after the other.
    number, dot, rest = name.partition(".")
    if number.isdigit():
        return f"{number}{dot}{_inner(rest)}"
    for own, other in _INNER.items():
        if name == own or name.startswith(f"{own}."):
            return other + name.removeprefix(own)
    return name


def _their_shape(own: Tensor, other: str) -> list[int]:
    """Gains have as many axes as what they multiply; layers within a frame are two-dimensional."""
    shape = list(own.shape)
    if other.endswith("gamma"):
        return [*shape, 1, 1] if "attentions" in other else [*shape, 1, 1, 1]
    if other.endswith("resample.1.weight"):
        return [*shape[:2], *shape[3:]]
    if other.endswith(("to_qkv.weight", "proj.weight")):
        return [*shape, 1, 1]
    return shape


def _refolded(tensor: Tensor, own: str, vae: Causal3D) -> Tensor:
    """Folded pixels are in the order channel, row, column here, and channel, column, row there; and the other way."""
    patch = vae.settings["unshuffle"][1]
    if own == "encoder.1.weight":
        return tensor.unflatten(1, (3, patch, patch)).transpose(2, 3).flatten(1, 3)
    if own in ("decoder.5.weight", "decoder.5.bias"):
        return tensor.unflatten(0, (3, patch, patch)).transpose(1, 2).flatten(0, 2)
    return tensor
