"""Which of several candidates for new frames goes on most evenly from the given ones."""

from collections.abc import Sequence

import torch
from torch import Tensor

#: Change of a frame, of values in [-1, 1], below which nothing moves.
STILL = 1e-4


def changes(video: Tensor) -> Tensor:
    """The mean absolute change from each frame to the next: (3, T, H, W) -> (T - 1,)."""
    return video.diff(dim=1).abs().mean((0, 2, 3))


def unevenness(new: Tensor, before: Tensor, after: Tensor) -> float:
    """How much new frames jump or stand still beside the given ones; 1 at best.

    Args:
        new: (3, n, H, W).
        before, after: the videos that it comes between, (3, m, H, W); m is 0 where there is none.

    Returns:
        The largest change from frame to frame, seams among them, over the given videos' median change; or the median
        over the mean change, where that is more: a frozen frame has no jumps either.
    """
    way = changes(torch.cat([before[:, -1:], new, after[:, :1]], dim=1))
    given = torch.cat([changes(video) for video in (before, after) if video.shape[1] > 1] or [way])
    usual = given.median().clamp(min=STILL)
    return max(way.max() / usual, usual / way.mean().clamp(min=STILL)).item()


def most_even(candidates: Sequence[Tensor], before: Tensor, after: Tensor) -> Tensor:
    """The first of the candidates with the least `unevenness`."""
    return min(candidates, key=lambda new: unevenness(new, before, after))
