"""Two transformers that share the noise levels: the plug-in `noise_experts`, as Wan 2.2 A14B.

Letters: B clips, N latent cells, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from kinema_core import Conditioning, DiT, Ragged
from torch import Tensor

from kinema_dit.video_dit import VideoDiT


class NoiseExperts(DiT):
    """One `video_dit` for clips of high noise and one for clips of low noise (eDiff-I, arXiv 2211.01324; Wan 2.2).

    A clip goes to one of them by the highest noise level of its cells, so given cells go with the others. A training
    step in which all clips are on one side leaves the other expert without gradients.

    Args:
        latent_channels, text_widths, pooled_widths, cell_widths, clip_widths: as of `video_dit`.
        boundary: the noise level in [0, 1] from which on the expert for high noise is asked.
        expert: the settings of both, as of `video_dit`.

    Raises:
        ValueError: a boundary outside of [0, 1], or a setting that `video_dit` does not have or take.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        text_widths: Sequence[int] = (),
        pooled_widths: Sequence[int | None] = (),
        cell_widths: Mapping[str, int] | None = None,
        clip_widths: Mapping[str, int] | None = None,
        boundary: float = 0.875,
        expert: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= boundary <= 1:
            raise ValueError(f"boundary is {boundary}; noise levels are from 0 to 1")
        self.boundary = boundary
        widths = {"latent_channels": latent_channels, "text_widths": text_widths, "pooled_widths": pooled_widths}
        widths |= {"cell_widths": cell_widths, "clip_widths": clip_widths}
        try:
            self.high, self.low = (VideoDiT(**widths, **(expert or {})) for _ in range(2))
        except TypeError as error:
            raise ValueError(f"expert holds the settings of video_dit: {error}") from error
        self.patch, self.cell_names = self.high.patch, self.high.cell_names

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """`VideoDiT.compile` of both."""
        for expert in (self.high, self.low):
            expert.compile(*args, **kwargs)

    def forward(self, x: Ragged, noise: Tensor, cond: Conditioning) -> Tensor:
        """See `kinema_core.DiT`: x (N, C), noise (N,) in [0, 1] -> (N, C)."""
        high = (torch.stack([part.max() for part in noise.split(x.lengths)]) >= self.boundary).tolist()
        if len(set(high)) == 1:
            return (self.high if high[0] else self.low)(x, noise, cond)
        clips = list(zip(x.split(), noise.split(x.lengths), cond.split(x.lengths), strict=True))
        out: dict[int, Tensor] = {}
        for expert, side in ((self.high, True), (self.low, False)):
            chosen = [i for i, is_high in enumerate(high) if is_high == side]
            parts, levels, conds = zip(*(clips[i] for i in chosen), strict=True)
            made = expert(Ragged.cat(parts), torch.cat(levels), Conditioning.cat(conds))
            out |= dict(zip(chosen, made.split([len(level) for level in levels]), strict=True))
        return torch.cat([out[i] for i in range(len(x))])
