"""The transformer's block: self-attention, attention to the text, feed-forward.

Letters: B clips, L tokens, M distinct (clip, noise level) pairs, S text tokens, H heads, E head width, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

from kinema_dit.attention import cross_attention, neighbour_attention, packed_attention
from kinema_dit.neighbourhoods import Neighbourhoods
from kinema_dit.packing import Packing
from kinema_dit.positions import rotate

#: Of all normalisations; Wan's.
EPS = 1e-6
#: Tokens (B, S, D), clips in packed order, and the bias (B, 1, 1, S) that hides padding.
Context = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class BlockSettings:
    """What all blocks of a transformer share.

    Attributes:
        width: D.
        num_heads: H.
        hidden: width of the feed-forward network.
        activation: of it.
        across_heads: queries and keys are normalised over all heads together, not each head alone.
        open_gates: gates and scales begin near one, and branches with zeros; else near zero.
        image: cross-attention attends to a second context, of an image, with keys and values of its own.
    """

    width: int
    num_heads: int
    hidden: int
    activation: Callable[[Tensor], Tensor]
    across_heads: bool = False
    open_gates: bool = True
    image: bool = False

    def qk_scale(self, *leading: int) -> nn.Parameter:
        """The gain of a normalised query or key: (..., E), or (..., H, E) across heads."""
        heads = (self.num_heads,) if self.across_heads else (1,) if leading else ()
        return nn.Parameter(torch.ones(*leading, *heads, self.width // self.num_heads))

    def normed(self, x: Tensor, scale: Tensor) -> Tensor:
        """RMS-normalised (..., H, E) times a gain."""
        axes = 2 if self.across_heads else 1
        return rms_norm(x, x.shape[-axes:], eps=EPS) * scale


class Block(nn.Module):
    """Noise and clip modulate the first and the last of the three branches."""

    def __init__(self, settings: BlockSettings, *, attends_to_text: bool) -> None:
        super().__init__()
        self.settings, width = settings, settings.width
        self.table = nn.Parameter(modulation_table(6, width, settings.open_gates))
        self.qkv = nn.Linear(width, 3 * width)
        self.qk_scale = settings.qk_scale(2)
        self.attention_out = nn.Linear(width, width)
        self.cross = _CrossAttention(settings) if attends_to_text else None
        self.up = nn.Linear(width, settings.hidden)
        self.down = nn.Linear(settings.hidden, width)

    def last_layers(self) -> list[nn.Linear]:
        """The layers that end the block's branches."""
        return [self.attention_out, self.down, *([self.cross.out] if self.cross else [])]

    def forward(
        self,
        h: Tensor,
        modulation: Tensor,
        level: Tensor,
        rotation: tuple[Tensor, Tensor],
        text: Context | None,
        image: Context | None,
        packing: Packing,
        near: Neighbourhoods | None = None,
    ) -> Tensor:
        """h (L, D), modulation (M, 6, D) with each token's index `level` (L,) into it -> (L, D).

        Tokens attend to all of their clip, or to what is `near`.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.table).unbind(1)

        qkv = self.qkv(modulated(h, shift1[level], scale1[level])).unflatten(1, (3, self.settings.num_heads, -1))
        qk, v = qkv.split([2, 1], dim=1)
        qk = rotate(self.settings.normed(qk, self.qk_scale), *rotation)  # (L, 2, H, E)
        q, k, v = *qk.unbind(1), v.squeeze(1)
        if near is None:
            attended = packed_attention(q, k, v, packing.groups)
        else:
            attended = neighbour_attention(q, k, v, near)
        h = torch.addcmul(h, gate1[level], self.attention_out(attended.flatten(1)))
        if self.cross is not None and text is not None:
            h = h + self.cross(h, text, image, packing)
        hidden = self.settings.activation(self.up(modulated(h, shift2[level], scale2[level])))
        return torch.addcmul(h, gate2[level], self.down(hidden))


class _CrossAttention(nn.Module):
    """Attention of a clip's tokens to its text, and to an image's features where there are any."""

    def __init__(self, settings: BlockSettings) -> None:
        super().__init__()
        self.settings, width = settings, settings.width
        self.norm = nn.LayerNorm(width, EPS)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.q_scale, self.k_scale = settings.qk_scale(), settings.qk_scale()
        if settings.image:
            self.kv_image, self.k_image_scale = nn.Linear(width, 2 * width), settings.qk_scale()
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, text: Context, image: Context | None, packing: Packing) -> Tensor:
        """h (L, D) -> (L, D)."""
        q = self.q(self.norm(h)).unflatten(1, (self.settings.num_heads, -1))
        q = self.settings.normed(q, self.q_scale)
        mixed = self._attended(q, text, self.kv, self.k_scale, packing)
        if image is not None:
            mixed = mixed + self._attended(q, image, self.kv_image, self.k_image_scale, packing)
        return self.out(mixed.flatten(1))

    def _attended(self, q: Tensor, context: Context, kv: nn.Linear, scale: Tensor, packing: Packing) -> Tensor:
        tokens, bias = context
        k, v = kv(tokens).unflatten(2, (2, self.settings.num_heads, -1)).unbind(2)
        return cross_attention(q, self.settings.normed(k, scale), v, bias, packing.groups)


def modulation_table(rows: int, width: int, near_one: bool) -> Tensor:
    """Shift, scale, gate, ...: all near zero, or scales and gates near one."""
    table = torch.randn(rows, width) * width**-0.5
    if near_one:
        table[1::3] += 1
        table[2::3] += 1
    return table


def modulated(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalised h times scale plus shift."""
    return torch.addcmul(shift, layer_norm(h, h.shape[-1:], eps=EPS), scale)
