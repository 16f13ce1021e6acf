"""Where a token is: rotary angles in three dimensions, and features of its place within the clip."""

import math
from typing import Any

import torch
from kinema_core import Ragged
from torch import Tensor


def rotary_angles(positions: Tensor, periods: Tensor, head_width: int, theta: float) -> Tensor:
    """The angles of 3D rotary embedding (RoPE, Su et al. 2021, one share of the pairs an axis as in Wan 2.1).

    Where time is cyclic each frequency is moved to the nearest whole number of turns a period, so that positions
    p and p + period have the same angles.

    Args:
        positions: (L, 3) time, row, column.
        periods: (L,) of the time axis; infinite where time is not cyclic.
        head_width: width of an attention head, even and at least 6.
        theta: the longest wavelength is about 2 pi theta.

    Returns:
        (L, head_width / 2).
    """
    pairs = head_width // 2
    shares = (pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)
    axes: list[Tensor] = []
    for axis, share in enumerate(shares):
        exponent = torch.arange(share, device=positions.device, dtype=torch.float32) / share
        frequency = (theta**-exponent).expand(len(positions), -1)
        if axis == 0:
            turn = 2 * math.pi / periods[:, None]
            cyclic = torch.isfinite(periods)[:, None]
            frequency = torch.where(cyclic, (frequency / turn).round() * turn, frequency)
        axes.append(positions[:, axis, None] * frequency)
    return torch.cat(axes, dim=1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (first half, second half) of x (..., head_width) by angles given as cos and sin (..., pairs).

    There are no gradients with respect to the angles.
    """
    return _Rotation.apply(x, cos, sin)


class _Rotation(torch.autograd.Function):
    """The gradient of a turn is the turn back, which saves half of the passes that automatic differentiation takes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, -sin), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([(first * cos).addcmul_(second, sin, value=-1), (second * cos).addcmul_(first, sin)], dim=-1)


NUM_BANDS = 6
PLACE_WIDTH = 3 * (2 * NUM_BANDS + 1)


def place_features(x: Ragged, periods: Tensor) -> Tensor:
    """Fourier features of each cell's place relative to its clip's extent, and the logarithm of the extents.

    Rotary embedding is relative; this tells a token where the borders, the first and the last frame are. On a cyclic
    time axis the features turn once a period.

    Args:
        x: only grids and positions are used.
        periods: (N,), infinite where time is not cyclic.

    Returns:
        (N, PLACE_WIDTH).
    """
    positions = x.positions
    last = torch.stack([part.amax(0) for part in positions.split(x.lengths)])
    extent = x.per_cell(last + 1)
    # Half a turn over the extent: both ends differ. A whole turn over a period: both ends are the same.
    angle = math.pi * (positions + 0.5) / extent
    cyclic = torch.isfinite(periods)
    time = torch.where(cyclic, 2 * math.pi * positions[:, 0] / periods, angle[:, 0])
    angle = torch.cat([time[:, None], angle[:, 1:]], dim=1)
    length = torch.where(cyclic, periods, extent[:, 0])
    extents = torch.cat([length[:, None], extent[:, 1:]], dim=1).log()
    bands = angle[..., None] * torch.arange(1, NUM_BANDS + 1, device=angle.device)
    return torch.cat([bands.sin().flatten(1), bands.cos().flatten(1), extents], dim=1)
