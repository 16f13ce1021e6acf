"""The transformer's blocks: attention within clips and to the text, feed-forward.

Letters: B clips, L tokens, M distinct (clip, noise level) pairs, S text tokens, H heads, E head width, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from kinema_dit.attention import KERNELS
from kinema_dit.levels import Levels
from kinema_dit.neighbourhoods import Neighbourhoods
from kinema_dit.norms import EPS, rms_normed
from kinema_dit.packing import Packing
from kinema_dit.positions import rotate

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
        return rms_normed(x, scale, axes=2 if self.across_heads else 1)


class Stream(nn.Module):
    """What a block does with one sequence of tokens around its attention; the noise modulates both of its branches.

    Args:
        settings: of the block.
        closes: it goes on after the attention; else it only gives queries, keys and values.
    """

    def __init__(self, settings: BlockSettings, *, closes: bool = True) -> None:
        super().__init__()
        self.settings, width, self.kernels = settings, settings.width, KERNELS
        self.table = nn.Parameter(modulation_table(6 if closes else 2, width, settings.open_gates))
        self.qkv = nn.Linear(width, 3 * width)
        self.qk_scale = settings.qk_scale(2)
        if closes:
            self.attention_out = nn.Linear(width, width)
            self.up = nn.Linear(width, settings.hidden)
            self.down = nn.Linear(settings.hidden, width)

    def last_layers(self) -> list[nn.Linear]:
        """The layers that end the branches."""
        return [self.attention_out, self.down]

    def modulations(self, modulation: Tensor) -> tuple[Tensor, ...]:
        """(M, 6, D) with the stream's table added, in shifts, scales and gates (M, D)."""
        return (modulation[:, : len(self.table)] + self.table).unbind(1)

    def heads(
        self, h: Tensor, shift: Tensor, scale: Tensor, rotation: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """h (L, D), shift and scale (L, D) -> queries, keys and values (L, H, E); turned by positions, if any."""
        width, heads = self.settings.width, self.settings.num_heads
        # Split before heads are told apart: a compiled graph would else put the gradients together value by value.
        qk, v = self.qkv(modulated(h, shift, scale)).split([2 * width, width], dim=1)
        qk = self.settings.normed(qk.unflatten(1, (2, heads, -1)), self.qk_scale)  # (L, 2, H, E)
        if rotation is not None:
            qk = rotate(qk, *rotation)
        q, k = qk.to(v.dtype).unbind(1)  # here, since attention may be left out of a compiled graph
        return q, k, v.unflatten(1, (heads, -1))

    def fed_forward(self, h: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        """h (L, D) and its modulation (L, D) each -> (L, D)."""
        hidden = self.settings.activation(self.up(modulated(h, shift, scale)))
        return torch.addcmul(h, gate, self.down(hidden))


class Block(Stream):
    """Self-attention, attention to the text, feed-forward."""

    def __init__(self, settings: BlockSettings, *, attends_to_text: bool) -> None:
        super().__init__(settings)
        self.cross = CrossAttention(settings) if attends_to_text else None

    def last_layers(self) -> list[nn.Linear]:
        """The layers that end the block's branches."""
        return [*super().last_layers(), *([self.cross.out] if self.cross else [])]

    def forward(
        self,
        h: Tensor,
        modulation: Tensor,
        levels: Levels,
        rotation: tuple[Tensor, Tensor],
        text: Context | None,
        image: Context | None,
        packing: Packing,
        near: Neighbourhoods | None = None,
    ) -> Tensor:
        """h (L, D), modulation (M, 6, D) of the tokens' `levels` -> (L, D).

        Tokens attend to all of their clip, or to what is `near`.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulations(modulation)
        q, k, v = self.heads(h, levels.rows(shift1), levels.rows(scale1), rotation)
        if near is None:
            attended = self.kernels.packed(q, k, v, packing)
        else:
            attended = self.kernels.near(q, k, v, near)
        h = torch.addcmul(h, levels.rows(gate1), self.attention_out(attended.flatten(1)))
        if self.cross is not None and text is not None:
            h = h + self.cross(h, text, image, packing)
        return self.fed_forward(h, *map(levels.rows, (shift2, scale2, gate2)))


class JointBlock(Stream):
    """The block of MM-DiT (Esser et al. 2024, section 4): text tokens are a second stream with weights of its own, and
    a clip's tokens and its text attend to each other and themselves in one sequence.

    Args:
        settings: of all blocks.
        last: the text goes no further.
    """

    def __init__(self, settings: BlockSettings, *, last: bool) -> None:
        super().__init__(settings)
        self.text = Stream(settings, closes=not last)
        self.last = last

    def last_layers(self) -> list[nn.Linear]:
        """The layers that end the block's branches."""
        return [*super().last_layers(), *([] if self.last else self.text.last_layers())]

    def forward(
        self,
        h: Tensor,
        modulation: Tensor,
        levels: Levels,
        rotation: tuple[Tensor, Tensor],
        text: Context,
        text_modulation: Tensor,
        packing: Packing,
    ) -> tuple[Tensor, Tensor]:
        """h (L, D) as in `Block`; text (B, S, D) with its modulation (B, 6, D), clips in packed order -> both."""
        words, bias = text
        clips, length = words.shape[:2]
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulations(modulation)
        rows = [part.repeat_interleave(length, dim=0) for part in self.text.modulations(text_modulation)]  # (B S, D)
        spoken = self.text.heads(words.flatten(0, 1), rows[0], rows[1], None)
        seen = self.heads(h, levels.rows(shift1), levels.rows(scale1), rotation)
        attended, heard = self.kernels.joint(seen, [x.unflatten(0, (clips, length)) for x in spoken], bias, packing)

        h = torch.addcmul(h, levels.rows(gate1), self.attention_out(attended.flatten(1)))
        h = self.fed_forward(h, *map(levels.rows, (shift2, scale2, gate2)))
        if self.last:
            return h, words
        words = torch.addcmul(words.flatten(0, 1), rows[2], self.text.attention_out(heard.flatten(2).flatten(0, 1)))
        return h, self.text.fed_forward(words, *rows[3:]).unflatten(0, (clips, length))


class CrossAttention(nn.Module):
    """Attention of a clip's tokens to its text, and to an image's features where there are any."""

    def __init__(self, settings: BlockSettings) -> None:
        super().__init__()
        self.settings, width, self.kernels = settings, settings.width, KERNELS
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
        q = self.settings.normed(q, self.q_scale).to(q.dtype)
        mixed = self._attended(q, text, self.kv, self.k_scale, packing)
        if image is not None:
            mixed = mixed + self._attended(q, image, self.kv_image, self.k_image_scale, packing)
        return self.out(mixed.flatten(1))

    def _attended(self, q: Tensor, context: Context, kv: nn.Linear, scale: Tensor, packing: Packing) -> Tensor:
        tokens, bias = context
        k, v = kv(tokens).unflatten(2, (2, self.settings.num_heads, -1)).unbind(2)
        return self.kernels.cross(q, self.settings.normed(k, scale).to(v.dtype), v, bias, packing)


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
