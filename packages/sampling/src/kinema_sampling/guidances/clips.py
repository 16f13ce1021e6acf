"""Sums over each clip of a pack.

Letters: N latent cells of all clips, C channels.
"""

import torch
from kinema_core import Ragged
from torch import Tensor


def clip_mean(x: Ragged, values: Tensor) -> Tensor:
    """The mean of values (N, C) over each clip of x, for each of its cells: (N, 1)."""
    means = torch.stack([part.mean() for part in values.split(x.lengths)])
    return x.per_cell(means)[:, None]


def clip_std(x: Ragged, values: Tensor) -> Tensor:
    """The standard deviation of values (N, C) over each clip of x, for each of its cells: (N, 1)."""
    return clip_mean(x, (values - clip_mean(x, values)).square()).sqrt()
