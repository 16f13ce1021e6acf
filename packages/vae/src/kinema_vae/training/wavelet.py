"""The absolute error of Haar wavelet coefficients (Li et al. 2024, WF-VAE): detail weighs as much as what is smooth."""

import torch
from torch import Tensor


def wavelet_l1(error: Tensor, levels: int = 2) -> Tensor:
    """The mean absolute Haar coefficient of an error, over `levels` of rows, columns and pairs of frames.

    The transform is linear, so that of the difference is the difference of the transforms. The first frame, which a
    causal VAE codes alone, has no partner; frames that are left over have none either.

    Args:
        error: (B, C, T, H, W), decoded - original; odd rows and columns at the end are left out.
        levels: how often the smooth part is split again, as far as the size allows.

    Returns:
        A scalar: the mean over all coefficients of all levels.
    """
    first, rest = error[:, :, :1], error[:, :, 1:]
    coefficients = _split(first, levels, over_time=False)
    if rest.shape[2] >= 2:
        coefficients += _split(rest, levels, over_time=True)
    return torch.cat([c.flatten() for c in coefficients]).abs().mean()


def _split(x: Tensor, levels: int, *, over_time: bool) -> list[Tensor]:
    details: list[Tensor] = []
    for _ in range(levels):
        if min(x.shape[3:]) < 2:
            break
        bands = _pairs(_pairs([x], 3), 4)
        if over_time and x.shape[2] >= 2:
            bands = _pairs(bands, 2)
        x = bands[0]
        details += bands[1:]
    return [*details, x]


def _pairs(bands: list[Tensor], dim: int) -> list[Tensor]:
    """Sums and differences of neighbours along an axis, orthonormal; the sums of the first band come first."""
    out: list[Tensor] = []
    for x in bands:
        even = x.shape[dim] // 2 * 2
        a, b = (x.narrow(dim, 0, even).unflatten(dim, (-1, 2)).select(dim + 1, i) for i in (0, 1))
        out += [(a + b) * 0.5**0.5, (a - b) * 0.5**0.5]
    return out
