"""A network without attention: every cell sees itself, the means of its frame and clip, its place, and the text."""

import math
from collections.abc import Sequence

import torch
from kinema_core import Conditioning, DiT, Ragged
from torch import Tensor, nn


class AcmeMixer(DiT):
    """An MLP a cell.

    Args:
        latent_channels: C.
        text_widths: token width of each text encoder; the mean over real tokens is used.
        hidden: width of the MLP.
    """

    patch = (1, 1, 1)

    def __init__(self, *, latent_channels: int, text_widths: Sequence[int] = (), hidden: int = 64) -> None:
        super().__init__()
        self.read = nn.Linear(3 * latent_channels + 6 + 1, hidden)
        self.text = nn.ModuleList(nn.Linear(width, hidden) for width in text_widths)
        self.layers = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, latent_channels))

    def forward(self, x: Ragged, noise: Tensor, cond: Conditioning) -> Tensor:
        """See `kinema_core.DiT`."""
        frame = [z.mean((2, 3), keepdim=True).expand_as(z) for z in x.clips()]
        clip = [z.mean((1, 2, 3), keepdim=True).expand_as(z) for z in x.clips()]
        means = [torch.cat([z.flatten(1).T for z in parts]) for parts in (frame, clip)]
        h = self.read(torch.cat([x.values, *means, self._place(x), noise[:, None]], dim=1))
        for layer, features in zip(self.text, cond.text, strict=True):
            mask = features.mask[..., None]
            h = h + x.per_cell(layer((features.tokens * mask).sum(1) / mask.sum(1)))
        return self.layers(h)

    def _place(self, x: Ragged) -> Tensor:
        """Sine and cosine of each position, time once a period where it is cyclic: (N, 6)."""
        periods = torch.tensor([period or 16.0 for period in x.period])
        turn = torch.stack([x.per_cell(periods), *(torch.full_like(x.positions[:, 0], 16.0) for _ in range(2))], 1)
        angle = 2 * math.pi * x.positions / turn
        return torch.cat([angle.sin(), angle.cos()], dim=1)
