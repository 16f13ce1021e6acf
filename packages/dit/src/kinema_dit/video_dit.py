"""The video diffusion transformer: packed spacetime patches, rotary positions, a noise level a token, text by
cross-attention.

The block follows Wan 2.1 (arXiv 2503.20314): RMS-normalised queries and keys, one time network shared by all blocks
with a learned table each (adaLN-single, PixArt-alpha, arXiv 2310.00426), modulation zero at the start.

Letters: B clips, N latent cells, L tokens, M distinct (clip, noise level) pairs, S text tokens, H heads, E head width,
D width.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from kinema_core import Conditioning, DiT, Ragged, TextFeatures
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, rms_norm, silu

from kinema_dit.attention import cross_attention, packed_attention
from kinema_dit.packing import Packing, pack
from kinema_dit.positions import PLACE_WIDTH, place_features, rotary_angles, rotate

NOISE_WIDTH = 256


ACTIVATIONS = {"gelu_tanh": partial(gelu, approximate="tanh"), "gelu": gelu, "silu": silu}


class VideoDiT(DiT):
    """Predicts a law's target for every latent cell of clips of many sizes in one sequence.

    Args:
        latent_channels: C.
        text_widths: token width of each text encoder; all streams stand in one sequence for cross-attention.
        pooled_widths: pooled width of each text encoder or None; pooled features join the noise level.
        cell_widths: features per latent cell by name; they join the patches.
        clip_widths: features per clip by name; they join the noise level.
        width: D, a multiple of `num_heads`; the head width D / num_heads is even and at least 6.
        depth: number of blocks.
        num_heads: attention heads.
        patch: (pt, ph, pw) cells a token.
        ffn_ratio: hidden width of the feed-forward network over D.
        cross_every: every n-th block, from the first, attends to the text.
        rope_theta: see `rotary_angles`; for grids of tens of cells 100 spreads the frequencies well.
        activation: of the feed-forward network. `gelu_tanh` is Wan's; on a CPU `gelu` and `silu` cost a third of it.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        text_widths: Sequence[int] = (),
        pooled_widths: Sequence[int | None] = (),
        cell_widths: Mapping[str, int] | None = None,
        clip_widths: Mapping[str, int] | None = None,
        width: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        patch: Sequence[int] = (1, 2, 2),
        ffn_ratio: float = 4.0,
        cross_every: int = 1,
        rope_theta: float = 10000.0,
        activation: Literal["gelu_tanh", "gelu", "silu"] = "gelu_tanh",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; use one of {', '.join(ACTIVATIONS)}")
        if width % num_heads or width // num_heads % 2 or width // num_heads < 6:
            raise ValueError(f"width {width} over {num_heads} heads must give an even head width of at least 6")
        pt, ph, pw = patch
        self.patch = (pt, ph, pw)
        self.head_width = width // num_heads
        self.rope_theta = rope_theta
        self.cell_names = sorted(cell_widths or {})
        self.clip_names = sorted(clip_widths or {})

        cells = pt * ph * pw
        extra = sum((cell_widths or {}).values())
        self.embed = nn.Linear(cells * (latent_channels + extra), width)
        self.embed_place = nn.Linear(PLACE_WIDTH, width)
        self.embed_noise = nn.Sequential(nn.Linear(NOISE_WIDTH, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_text = nn.ModuleList(nn.Linear(text_width, width) for text_width in text_widths)
        self.embed_pooled = nn.ModuleList(
            nn.Identity() if pooled is None else nn.Linear(pooled, width) for pooled in pooled_widths
        )
        self.embed_clip = nn.ModuleDict({name: nn.Linear((clip_widths or {})[name], width) for name in self.clip_names})
        self.modulate = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(
            _Block(
                width,
                num_heads,
                int(ffn_ratio * width),
                ACTIVATIONS[activation],
                bool(text_widths) and index % cross_every == 0,
            )
            for index in range(depth)
        )
        self.final_table = nn.Parameter(_modulation_table(2, width))
        self.final_modulate = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, cells * latent_channels)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # Each block begins as the identity and the output as zero, as in adaLN-Zero (DiT, arXiv 2212.09748), but by
        # the branches' last layers with gates at one: a gate at zero first has to open before its branch can learn.
        last = [layer for block in self.blocks for layer in block.last_layers()]
        for layer in (self.modulate, self.final_modulate, self.project, *last):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Ragged, noise: Tensor, cond: Conditioning) -> Tensor:
        """See `kinema_core.DiT`: x (N, C), noise (N,) in [0, 1] -> (N, C)."""
        packing = pack(x.grids, self.patch, x.values.device)
        first = packing.cells[:, 0]
        periods = _periods(x)

        cells = torch.cat([x.values, *(cond.cells[name] for name in self.cell_names)], dim=1)
        h = self.embed(packing.patchify(cells)) + self.embed_place(place_features(x, periods)[first])  # (L, D)
        angles = rotary_angles(x.positions[first], periods[first], self.head_width, self.rope_theta)
        rotation = (angles.cos()[:, None, None], angles.sin()[:, None, None])  # (L, 1, 1, E / 2)

        level, levels = _levels(noise[first], packing.clip)  # (L,), two of (M,)
        c = silu(self._condition(*levels, cond))  # (M, D)
        modulation = self.modulate(c).unflatten(1, (6, -1))  # (M, 6, D)
        text = self._text(cond.text, packing)
        for block in self.blocks:
            h = block(h, modulation, level, rotation, text, packing)
        shift, scale = (self.final_modulate(c).unflatten(1, (2, -1)) + self.final_table)[level].unbind(1)
        return packing.unpatchify(self.project(_modulated(h, shift, scale)))

    def _condition(self, noise: Tensor, clip: Tensor, cond: Conditioning) -> Tensor:
        """Noise levels (M,) of clips (M,), with the clips' pooled text and features -> (M, D)."""
        c = self.embed_noise(_noise_features(noise))
        for layer, features in zip(self.embed_pooled, cond.text, strict=True):
            if features.pooled is not None:
                c = c + layer(features.pooled)[clip]
        for name in self.clip_names:
            c = c + self.embed_clip[name](cond.clips[name])[clip]
        return c

    def _text(self, streams: tuple[TextFeatures, ...], packing: Packing) -> "tuple[Tensor, Tensor] | None":
        """All streams as one (B, S, D), clips in packed order, and the bias (B, 1, 1, S) that hides padding."""
        if not streams:
            return None
        tokens = torch.cat(
            [layer(features.tokens) for layer, features in zip(self.embed_text, streams, strict=True)], dim=1
        )
        mask = torch.cat([features.mask for features in streams], dim=1)
        bias = torch.zeros(mask.shape, dtype=tokens.dtype, device=tokens.device).masked_fill_(~mask, -torch.inf)
        return tokens[packing.order], bias[packing.order, None, None]


class _Block(nn.Module):
    """Self-attention, attention to the text, feed-forward; noise and clip modulate the first and the last."""

    def __init__(
        self, width: int, num_heads: int, hidden: int, activation: Callable[[Tensor], Tensor], attends_to_text: bool
    ) -> None:
        super().__init__()
        self.activation = activation
        self.num_heads = num_heads
        self.table = nn.Parameter(_modulation_table(6, width))
        self.qkv = nn.Linear(width, 3 * width)
        self.qk_scale = nn.Parameter(torch.ones(2, 1, width // num_heads))
        self.attention_out = nn.Linear(width, width)
        self.cross = _CrossAttention(width, num_heads) if attends_to_text else None
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def last_layers(self) -> list[nn.Linear]:
        """The layers that end the block's branches."""
        return [self.attention_out, self.down, *([self.cross.out] if self.cross else [])]

    def forward(
        self,
        h: Tensor,
        modulation: Tensor,
        level: Tensor,
        rotation: tuple[Tensor, Tensor],
        text: tuple[Tensor, Tensor] | None,
        packing: Packing,
    ) -> Tensor:
        """h (L, D), modulation (M, 6, D) with each token's index `level` (L,) into it -> (L, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.table).unbind(1)

        qkv = self.qkv(_modulated(h, shift1[level], scale1[level])).unflatten(1, (3, self.num_heads, -1))
        qk, v = qkv.split([2, 1], dim=1)
        qk = rotate(_normed(qk, self.qk_scale), *rotation)  # (L, 2, H, E)
        attended = packed_attention(*qk.unbind(1), v.squeeze(1), packing.groups).flatten(1)
        h = torch.addcmul(h, gate1[level], self.attention_out(attended))
        if self.cross is not None and text is not None:
            h = h + self.cross(h, *text, packing)
        hidden = self.activation(self.up(_modulated(h, shift2[level], scale2[level])))
        return torch.addcmul(h, gate2[level], self.down(hidden))


class _CrossAttention(nn.Module):
    """Attention of a clip's tokens to its text."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.q_scale, self.k_scale = (nn.Parameter(torch.ones(width // num_heads)) for _ in range(2))
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, text: Tensor, bias: Tensor, packing: Packing) -> Tensor:
        """h (L, D), text (B, S, D) in packed order -> (L, D)."""
        q = self.q(self.norm(h)).unflatten(1, (self.num_heads, -1))
        k, v = self.kv(text).unflatten(2, (2, self.num_heads, -1)).unbind(2)
        q, k = _normed(q, self.q_scale), _normed(k, self.k_scale)
        return self.out(cross_attention(q, k, v, bias, packing.groups).flatten(1))


def _modulation_table(rows: int, width: int) -> Tensor:
    """Shift, scale, gate, ...: shifts begin near zero, the others near one."""
    table = torch.randn(rows, width) * width**-0.5
    table[1::3] += 1
    table[2::3] += 1
    return table


def _modulated(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, layer_norm(h, h.shape[-1:]), scale)


def _normed(x: Tensor, scale: Tensor) -> Tensor:
    return rms_norm(x, x.shape[-1:], eps=1e-6) * scale


def _periods(x: Ragged) -> Tensor:
    """(N,), infinite where time is not cyclic."""
    periods = [torch.inf if period is None else period for period in x.period]
    return x.per_cell(torch.tensor(periods, device=x.values.device))


def _levels(noise: Tensor, clip: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The distinct (noise level, clip) pairs of the tokens: each token's index, and the pairs (M,), (M,).

    Modulation is computed once a pair: a clip has one or two levels but hundreds of tokens.
    """
    # A clip's number and half its level (below 1) in one sortable key.
    keys, index = torch.unique(clip.double() + noise.double() / 2, return_inverse=True)
    return index, ((keys.frac() * 2).to(noise.dtype), keys.long())


def _noise_features(noise: Tensor) -> Tensor:
    """Sine and cosine features (M, NOISE_WIDTH) of noise levels in [0, 1]."""
    half = NOISE_WIDTH // 2
    frequency = 1000 * 10000 ** (-torch.arange(half, device=noise.device) / half)
    angle = noise[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)
