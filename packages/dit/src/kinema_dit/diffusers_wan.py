"""diffusers' Wan transformer behind our interface: the plug-in `diffusers_wan`, a peer to compare `video_dit` with.

Letters: B clips, N latent cells, C channels, L tokens of a clip, D width.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from kinema_core import Conditioning, DiT, Ragged
from torch import Tensor
from torch.nn.functional import pad

from kinema_dit.packing import Grid


class DiffusersWanDiT(DiT):
    """`WanTransformer3DModel` of diffusers from scratch; clips of one size and length of text go through it together.

    It has no place for pooled text, for frame rates or for cyclic time, and counts frames only.

    Args:
        latent_channels: C.
        text_widths: token width of the one text encoder.
        pooled_widths: not used.
        cell_widths: features per latent cell by name; they join the latents.
        clip_widths: has to be empty.
        width: D.
        depth: number of blocks.
        num_heads: attention heads.
        patch: (pt, ph, pw) cells a token.
        ffn_ratio: hidden width of the feed-forward network over D.

    Raises:
        ValueError: diffusers is not installed, more or less than one text encoder, or features per clip.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        text_widths: Sequence[int] = (),
        pooled_widths: Sequence[int | None] = (),  # noqa: ARG002  every DiT is given them
        cell_widths: Mapping[str, int] | None = None,
        clip_widths: Mapping[str, int] | None = None,
        width: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        patch: Sequence[int] = (1, 2, 2),
        ffn_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        if len(text_widths) != 1 or clip_widths:
            raise ValueError("diffusers_wan reads one text encoder and no features per clip")
        try:
            from diffusers import WanTransformer3DModel  # noqa: PLC0415  an extra
        except ImportError as error:
            raise ValueError("diffusers_wan needs diffusers: pip install 'kinema-dit[diffusers]'") from error
        pt, ph, pw = patch
        self.patch = (pt, ph, pw)
        self.cell_names = sorted(cell_widths or {})
        self.model: Any = WanTransformer3DModel(
            patch_size=self.patch,
            num_attention_heads=num_heads,
            attention_head_dim=width // num_heads,
            in_channels=latent_channels + sum((cell_widths or {}).values()),
            out_channels=latent_channels,
            text_dim=text_widths[0],
            ffn_dim=round(ffn_ratio * width),
            num_layers=depth,
        )

    def forward(self, x: Ragged, noise: Tensor, cond: Conditioning) -> Tensor:
        """See `kinema_core.DiT`: x (N, C), noise (N,) in [0, 1] -> (N, C)."""
        values = torch.cat([x.values, *(cond.cells[name] for name in self.cell_names)], dim=1)
        clips, levels = x.replace(values).clips(), x.replace(noise[:, None]).clips()
        (text,) = cond.text
        words = text.mask.sum(1).tolist()
        groups: dict[tuple[Grid, int], list[int]] = defaultdict(list)
        for i, grid in enumerate(x.grids):
            groups[grid, words[i]].append(i)
        out: dict[int, Tensor] = {}
        for (grid, length), members in groups.items():
            latents, noises = (torch.stack([self._padded(some[i]) for i in members]) for some in (clips, levels))
            times = noises[:, 0, :: self.patch[0], :: self.patch[1], :: self.patch[2]].flatten(1)  # (B, L)
            tokens = torch.stack([text.tokens[i][text.mask[i]] for i in members])
            assert tokens.shape[1] == length
            done = self.model(latents, 1000 * times, tokens).sample
            out |= dict(zip(members, done[..., : grid[0], : grid[1], : grid[2]], strict=True))
        return torch.cat([out[i].flatten(1).T for i in range(len(x))])

    def _padded(self, clip: Tensor) -> Tensor:
        """(C, t, h, w) with zeros up to multiples of the patch."""
        (t, h, w), (pt, ph, pw) = clip.shape[1:], self.patch
        return pad(clip, (0, -w % pw, 0, -h % ph, 0, -t % pt))
