"""Root-mean-square normalisation with a gain, and a gradient in half the passes over memory of automatic ones."""

from typing import Any

import torch
from torch import Tensor

#: Of all normalisations; Wan's.
EPS = 1e-6


def rms_normed(x: Tensor, gain: Tensor, axes: int = 1) -> Tensor:
    """x / sqrt(mean(x^2) + eps) times a gain (Zhang & Sennrich 2019), the mean over the last `axes` axes of x.

    Args:
        x: (..., H, E).
        gain: what broadcasts to x.
        axes: 1: each head alone; 2: all heads together.

    Returns:
        As x, in float32 where the gain is and x is not.
    """
    return _Normed.apply(x, gain, axes)


class _Normed(torch.autograd.Function):
    """With n = x r, y = n g: dx = r (g dy - n mean(n g dy)), dg = sum(n dy)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, axes: int) -> Tensor:
        over = tuple(range(-axes, 0))
        wide = x.to(torch.promote_types(x.dtype, gain.dtype))
        inverse = torch.rsqrt(wide.square().mean(over, keepdim=True) + EPS)
        normed = wide * inverse
        ctx.save_for_backward(normed, inverse, gain)
        ctx.over, ctx.dtype = over, x.dtype
        return normed * gain

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        normed, inverse, gain = ctx.saved_tensors
        product = normed * grad
        of_gain = product.sum_to_size(gain.shape)
        mean = (product * gain).mean(ctx.over, keepdim=True)
        of_x = (grad * gain).addcmul_(normed, mean, value=-1).mul_(inverse)
        return of_x.to(ctx.dtype), of_gain, None
