"""Named sizes of the transformer, and what a pass through it costs."""

from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import nn

from kinema_dit.blocks import JointBlock
from kinema_dit.packing import Grid

if TYPE_CHECKING:
    from kinema_dit.video_dit import VideoDiT

#: S, B, L and XL are those of DiT (Peebles and Xie 2022, arXiv 2212.09748); the others those of Wan 2.1 and 2.2.
SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "S": {"width": 384, "depth": 12, "num_heads": 6, "ffn_ratio": 4.0},
        "B": {"width": 768, "depth": 12, "num_heads": 12, "ffn_ratio": 4.0},
        "L": {"width": 1024, "depth": 24, "num_heads": 16, "ffn_ratio": 4.0},
        "XL": {"width": 1152, "depth": 28, "num_heads": 16, "ffn_ratio": 4.0},
        "1.3B": {"width": 1536, "depth": 30, "num_heads": 12, "ffn_ratio": 8960 / 1536},
        "5B": {"width": 3072, "depth": 30, "num_heads": 24, "ffn_ratio": 14336 / 3072},
        "14B": {"width": 5120, "depth": 40, "num_heads": 40, "ffn_ratio": 13824 / 5120},
    }
)


def resolved(size: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a named size, but those given. ValueError for an unknown name."""
    if size not in SIZES:
        raise ValueError(f"size {size!r} is unknown; known are {', '.join(SIZES)}")
    return {**SIZES[size], **{key: value for key, value in given.items() if value is not None}}


def num_parameters(dit: nn.Module) -> int:
    """Of all weights."""
    return sum(p.numel() for p in dit.parameters())


def forward_flops(
    dit: "VideoDiT", grids: Sequence[Grid], *, text_tokens: Sequence[int] = (), image_tokens: int = 0, levels: int = 1
) -> int:
    """Floating-point operations, two a multiplication, of the matrix products in one forward pass.

    A training step does three times as many, four with checkpointing.

    Args:
        dit: the transformer; on the meta device too.
        grids: tokens (in time, rows, columns) of each clip.
        text_tokens: S of each text stream, padding included.
        image_tokens: of the image stream, where there is one.
        levels: distinct noise levels in each clip.
    """
    clips, total, text = len(grids), sum(map(prod, grids)), sum(text_tokens)
    rows = {"embed_image": clips * image_tokens}
    rows |= {f"embed_text.{i}": clips * length for i, length in enumerate(text_tokens)}
    joint = any(isinstance(block, JointBlock) for block in dit.blocks)
    rows |= dict.fromkeys(("embed_noise", "modulate"), clips * (levels + joint))
    rows |= dict.fromkeys(("final_modulate",), clips * levels)
    rows |= dict.fromkeys(("embed_pooled", "embed_clip"), clips * (1 + joint))
    products = 0
    for name, layer in dit.named_modules():
        if isinstance(layer, nn.Linear):
            parts = name.split(".")
            kind = parts[-1] if parts[0] == "blocks" else ".".join(parts[: 1 + (parts[0] == "embed_text")])
            if joint and parts[0] == "blocks" and parts[2] == "text":
                count = clips * text
            else:
                count = {"kv": clips * text, "kv_image": clips * image_tokens}.get(kind, rows.get(kind, total))
            products += count * layer.in_features * layer.out_features
    for i, block in enumerate(dit.blocks):
        width = block.settings.width
        if isinstance(block, JointBlock):
            products += 2 * width * sum((prod(grid) + text) ** 2 for grid in grids)
            continue
        if dit.rules:
            rule = dit.rules[i % len(dit.rules)]
            pairs = sum(len(queries) * len(keys) for grid in grids for queries, keys in rule.sets(grid))
        else:
            pairs = sum(prod(grid) ** 2 for grid in grids)
        products += 2 * width * pairs
        if block.cross is not None:
            products += 2 * width * total * (text + image_tokens)
    return 2 * products
