"""The video diffusion transformer: packed spacetime patches, rotary positions, a noise level a token, text by
cross-attention or in one sequence.

The block follows Wan 2.1 (arXiv 2503.20314): RMS-normalised queries and keys, one time network shared by all blocks
with a learned table each (adaLN-single, PixArt-alpha, arXiv 2310.00426), modulation zero at the start.

Letters: B clips, N latent cells, L tokens, M distinct (clip, noise level) pairs, S text tokens, D width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from kinema_core import Conditioning, DiT, Ragged, TextFeatures
from torch import Tensor, nn
from torch.nn.functional import pad, silu
from torch.utils.checkpoint import checkpoint

from kinema_dit.activations import ACTIVATIONS
from kinema_dit.attention import KERNELS, MASKED
from kinema_dit.blocks import (
    Block,
    BlockSettings,
    Context,
    CrossAttention,
    JointBlock,
    Stream,
    modulated,
    modulation_table,
)
from kinema_dit.levels import Levels
from kinema_dit.neighbourhoods import CausalBlocks, Windows, neighbourhoods
from kinema_dit.packing import Packing, pack
from kinema_dit.positions import PLACE_WIDTH, place_features, rotary_angles
from kinema_dit.sizes import resolved

NOISE_WIDTH = 256


class VideoDiT(DiT):
    """Predicts a law's target for every latent cell of clips of many sizes in one sequence.

    Args:
        latent_channels: C.
        text_widths: token width of each text encoder; all streams stand in one sequence for cross-attention.
        pooled_widths: pooled width of each text encoder or None; pooled features join the noise level.
        cell_widths: features per latent cell by name; they join the patches.
        clip_widths: features per clip by name; they join the noise level.
        size: one of `SIZES`, the next three and `ffn_ratio` where they are not given.
        width: D, a multiple of `num_heads`; the head width D / num_heads is even and at least 6.
        depth: number of blocks.
        num_heads: attention heads.
        patch: (pt, ph, pw) cells a token.
        ffn_ratio: hidden width of the feed-forward network over D.
        cross_every: every n-th block, from the first, attends to the text.
        rope_theta: see `rotary_angles`; for grids of tens of cells 100 spreads the frequencies well.
        activation: of the feed-forward network. `gelu_tanh` is Wan's; on a CPU, where it is not compiled, `gelu` and
            `silu` cost a third of it.
        attention: of a token to all of its clip ("full"), to a box around it ("window"; boxes are shifted by half in
            every second block), or to its block of frames and some before it ("block_causal").
        text_attention: "cross", or "joint" as in MM-DiT: text tokens are a second stream with weights of its own, and
            attend together with the clip's in every block. It goes with full attention.
        window: tokens (in time, rows, columns) of a box.
        block: token frames of a block.
        context: how many earlier blocks are seen.
        checkpointing: compute each block anew in the backward pass instead of keeping what it made on the way: memory
            for a third more time.
        layout: "wan" is Wan's network weight by weight, see `load_wan`: queries and keys are normalised over all heads
            together, positions count tokens, text goes through two layers, and there are no features of a token's
            place in its clip.
        frame_rate: frames a second at which rotary positions count latent frames; Wan 2.1 and 2.2 A14B were trained at
            16, Wan 2.2 TI2V at 24.
        image_width: in the layout "wan", features of an image's patches, as its image-to-video models have; they are
            the last of the conditioning's text streams, and cross-attention attends to them apart.

    Raises:
        ValueError: an unknown size, attention, layout or activation, a width that its heads do not divide, or an
            empty window or block.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        text_widths: Sequence[int] = (),
        pooled_widths: Sequence[int | None] = (),
        cell_widths: Mapping[str, int] | None = None,
        clip_widths: Mapping[str, int] | None = None,
        size: str = "S",
        width: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        patch: Sequence[int] = (1, 2, 2),
        ffn_ratio: float | None = None,
        cross_every: int = 1,
        rope_theta: float = 10000.0,
        activation: Literal["gelu_tanh", "gelu", "silu"] = "gelu_tanh",
        attention: Literal["full", "window", "block_causal"] = "full",
        text_attention: Literal["cross", "joint"] = "cross",
        window: Sequence[int] = (4, 8, 8),
        block: int = 1,
        context: int = 4,
        checkpointing: bool = False,
        layout: Literal["kinema", "wan"] = "kinema",
        frame_rate: float = 24.0,
        image_width: int | None = None,
    ) -> None:
        super().__init__()
        given = {"width": width, "depth": depth, "num_heads": num_heads, "ffn_ratio": ffn_ratio}
        width, depth, num_heads, ffn_ratio = resolved(size, given).values()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; use one of {', '.join(ACTIVATIONS)}")
        if width % num_heads or width // num_heads % 2 or width // num_heads < 6:
            raise ValueError(f"width {width} over {num_heads} heads must give an even head width of at least 6")
        if not frame_rate > 0:
            raise ValueError(f"frame_rate is {frame_rate}; it is above 0")
        if layout not in ("kinema", "wan") or (image_width is not None and layout != "wan"):
            raise ValueError(f"layout is {layout!r}; known are kinema and wan, and an image_width is for wan")
        self.rules = _rules(attention, window, block, context)
        self.checkpointing = checkpointing
        self.few_sizes, self.finish = False, _finish  # see `compile`
        pt, ph, pw = patch
        self.patch = (pt, ph, pw)
        self.wan = layout == "wan"
        self.head_width = width // num_heads
        self.rope_theta = rope_theta
        # What is one step of rotary positions: in Wan's layout a token.
        step = torch.tensor(self.patch if self.wan else (1, 1, 1), dtype=torch.float32)
        self.register_buffer("position_step", step * torch.tensor([24 / frame_rate, 1, 1]), persistent=False)
        self.register_buffer("one_for_scales", torch.tensor([0.0, 1.0, 0.0] * 2), persistent=False)
        self.cell_names = sorted(cell_widths or {})
        self.clip_names = sorted(clip_widths or {})

        cells = pt * ph * pw
        extra = sum((cell_widths or {}).values())
        self.embed = nn.Linear(cells * (latent_channels + extra), width)
        self.embed_place = None if self.wan else nn.Linear(PLACE_WIDTH, width)
        self.embed_noise = nn.Sequential(nn.Linear(NOISE_WIDTH, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_text = nn.ModuleList(
            _two_layers(text_width, width) if self.wan else nn.Linear(text_width, width) for text_width in text_widths
        )
        self.embed_image = None if image_width is None else _image_layers(image_width, width)
        self.embed_pooled = nn.ModuleList(
            nn.Identity() if pooled is None else nn.Linear(pooled, width) for pooled in pooled_widths
        )
        self.embed_clip = nn.ModuleDict({name: nn.Linear((clip_widths or {})[name], width) for name in self.clip_names})
        self.modulate = nn.Linear(width, 6 * width)
        settings = BlockSettings(
            width,
            num_heads,
            round(ffn_ratio * width),
            ACTIVATIONS[activation],
            across_heads=self.wan,
            open_gates=not self.wan,
            image=image_width is not None,
        )
        self.joint = text_attention == "joint"
        if self.joint:
            if attention != "full" or self.wan or not text_widths:
                raise ValueError("text_attention joint needs a text encoder, full attention and the layout kinema")
            self.blocks = nn.ModuleList(JointBlock(settings, last=index == depth - 1) for index in range(depth))
        elif text_attention == "cross":
            self.blocks = nn.ModuleList(
                Block(settings, attends_to_text=bool(text_widths) and index % cross_every == 0)
                for index in range(depth)
            )
        else:
            raise ValueError(f"text_attention is {text_attention!r}; known are cross and joint")
        self.final_table = nn.Parameter(modulation_table(2, width, near_one=not self.wan))
        self.final_modulate = None if self.wan else nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, cells * latent_channels)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # Each block begins as the identity and the output as zero, as in adaLN-Zero (DiT, arXiv 2212.09748), but by
        # the branches' last layers with gates at one: a gate at zero first has to open before its branch can learn.
        # In Wan's layout the gates are what is near zero.
        closed = [] if self.wan else [layer for block in self.blocks for layer in block.last_layers()]
        for layer in (self.modulate, self.project, *closed, *([self.final_modulate] if self.final_modulate else [])):
            nn.init.zeros_(layer.weight)

    def compile(self, *args: Any, attention: bool = False, **kwargs: Any) -> None:
        """torch.compile of every block and the last layer: all blocks share their graphs.

        Args:
            args, kwargs: of torch.compile.
            attention: in the graphs too: some per cent faster, but compiled anew for every mix of sizes. Else two mixes
                are compiled, and the second serves for all others but packs of a single clip or token.
        """
        for module in self.modules():
            if isinstance(module, Stream | CrossAttention):
                module.kernels = KERNELS if attention else KERNELS.outside()
        self.few_sizes, self.finish = attention, torch.compile(_finish, *args, **kwargs)
        for block in self.blocks:
            block.compile(*args, **kwargs)

    def forward(self, x: Ragged, noise: Tensor, cond: Conditioning) -> Tensor:
        """See `kinema_core.DiT`: x (N, C), noise (N,) in [0, 1] -> (N, C)."""
        packing = pack(x.grids, self.patch, x.values.device)
        first = packing.cells[:, 0]
        periods = _periods(x)
        wide = torch.promote_types(x.values.dtype, torch.float32)

        cells = torch.cat([x.values, *(cond.cells[name] for name in self.cell_names)], dim=1)
        h = self.embed(packing.patchify(cells))  # (L, D)
        if self.embed_place is not None:
            h = h + self.embed_place(place_features(x, periods)[first].to(wide))
        steps = x.positions[first] / self.position_step
        angles = rotary_angles(steps, periods[first] / self.position_step[0], self.head_width, self.rope_theta).to(wide)
        rotation = (angles.cos()[:, None, None], angles.sin()[:, None, None])  # (L, 1, 1, E / 2)

        levels = Levels.of(noise[first], packing.clip, look=self.few_sizes)
        c = self._condition(levels.noise, levels.clip, cond)  # (M, D)
        modulation = self._scaled(self.modulate(silu(c)).unflatten(1, (6, -1)))  # (M, 6, D)
        text, image = self._contexts(cond.text, packing)
        near = [neighbourhoods(packing, rule) for rule in self.rules] or [None]
        of_text = self._text_modulation(noise[first], packing, cond) if self.joint else None
        run = _checkpointed if self.checkpointing and torch.is_grad_enabled() else _run
        for i, block in enumerate(self.blocks):
            if isinstance(block, JointBlock):
                assert text is not None
                h, words = run(block, h, modulation, levels, rotation, text, of_text, packing)
                text = (words, text[1])
            else:
                h = run(block, h, modulation, levels, rotation, text, image, packing, near[i % len(near)])
        last = c[:, None] if self.final_modulate is None else self.final_modulate(silu(c)).unflatten(1, (2, -1))
        last = self._scaled(last.expand(-1, 2, -1)) + self.final_table  # (M, 2, D)
        return packing.unpatchify(self.finish(h, last, levels, self.project))

    def _text_modulation(self, noise: Tensor, packing: Packing, cond: Conditioning) -> Tensor:
        """(B, 6, D), clips in packed order: text goes by the highest noise of its clip. Noise (L,) of the tokens."""
        clips = len(packing.order)
        highest = noise.new_zeros(clips).scatter_reduce(0, packing.clip, noise, "amax")
        c = self._condition(highest, torch.arange(clips, device=noise.device), cond)
        return self.modulate(silu(c)).unflatten(1, (6, -1))[packing.order]

    def _scaled(self, modulation: Tensor) -> Tensor:
        """(M, rows, D), with one added to the scales in Wan's layout, whose tables are around zero."""
        if not self.wan:
            return modulation
        return modulation + self.one_for_scales[: modulation.shape[1], None]

    def _condition(self, noise: Tensor, clip: Tensor, cond: Conditioning) -> Tensor:
        """Noise levels (M,) of clips (M,), with the clips' pooled text and features -> (M, D)."""
        c = self.embed_noise(_noise_features(noise))
        for layer, features in zip(self.embed_pooled, cond.text[: len(self.embed_pooled)], strict=True):
            if features.pooled is not None:
                c = c + layer(features.pooled)[clip]
        for name in self.clip_names:
            c = c + self.embed_clip[name](cond.clips[name])[clip]
        return c

    def _contexts(
        self, streams: tuple[TextFeatures, ...], packing: Packing
    ) -> tuple[Context | None, Context | None]:  # fmt: skip
        """What cross-attention attends to: all text streams in one sequence, and an image's features."""
        image = None
        if self.embed_image is not None:
            *others, last = streams
            streams = tuple(others)
            image = _context(self.embed_image(last.tokens), last.mask, packing)
        if not streams:
            return None, image
        tokens = [layer(features.tokens) for layer, features in zip(self.embed_text, streams, strict=True)]
        mask = torch.cat([features.mask for features in streams], dim=1)
        return _context(torch.cat(tokens, dim=1), mask, packing), image


def _finish(h: Tensor, modulation: Tensor, levels: Levels, project: nn.Linear) -> Tensor:
    """h (L, D), modulation (M, 2, D) of the tokens' `levels` -> (L, out); rows are made here, inside of the graph."""
    shift, scale = map(levels.rows, modulation.unbind(1))
    return project(modulated(h, shift, scale))


def _run(block: nn.Module, *inputs: Any) -> Any:
    return block(*inputs)


def _checkpointed(block: nn.Module, *inputs: Any) -> Any:
    return checkpoint(block, *inputs, use_reentrant=False)


def _context(tokens: Tensor, mask: Tensor, packing: Packing) -> Context:
    if tokens.is_cuda:  # few lengths, and masks that the fastest kernel takes
        missing = -tokens.shape[1] % MASKED
        tokens, mask = pad(tokens, (0, 0, 0, missing)), pad(mask, (0, missing))
    bias = torch.zeros(mask.shape, dtype=tokens.dtype, device=tokens.device).masked_fill_(~mask, -torch.inf)
    return tokens[packing.order], bias[packing.order, None, None]


def _rules(attention: str, window: Sequence[int], block: int, context: int) -> list[Windows | CausalBlocks]:
    """What tokens attend to in turn, block by block of the transformer; empty: to all."""
    if min(*window, block) < 1 or context < 0:
        raise ValueError(f"window {list(window)} and block {block} start at 1, context {context} at 0")
    if attention == "full":
        return []
    if attention == "window":
        t, h, w = window
        return [Windows((t, h, w)), Windows((t, h, w), shift=True)]
    if attention == "block_causal":
        return [CausalBlocks(block, context)]
    raise ValueError(f"attention is {attention!r}; known are full, window and block_causal")


def _two_layers(in_width: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_width, width), nn.GELU("tanh"), nn.Linear(width, width))


def _image_layers(in_width: int, width: int) -> nn.Sequential:
    """Wan's: norm, two layers, norm."""
    return nn.Sequential(
        nn.LayerNorm(in_width),
        nn.Linear(in_width, in_width),
        nn.GELU(),
        nn.Linear(in_width, width),
        nn.LayerNorm(width),
    )


def _periods(x: Ragged) -> Tensor:
    """(N,), infinite where time is not cyclic."""
    periods = [torch.inf if period is None else period for period in x.period]
    return x.per_cell(torch.tensor(periods).to(x.values.device, non_blocking=True))


def _noise_features(noise: Tensor) -> Tensor:
    """Sine and cosine features (M, NOISE_WIDTH) of noise levels in [0, 1]."""
    half = NOISE_WIDTH // 2
    frequency = 1000 * 10000 ** (-torch.arange(half, device=noise.device) / half)
    angle = noise[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)
