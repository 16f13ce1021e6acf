"""Figures of some clips with their 95 % intervals: what another draw of as many clips would have given.

Shares have Wilson's interval, which is right near 0 and 1 too; means and medians that of 2,000 resamples of the clips
(bootstrap percentiles, B. Efron 1979). Both are of the clips alone, not of another training.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from kinema_metrics import interval
from torch import Tensor

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A figure, and the ends of its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


def share(flags: Iterable[bool]) -> Estimate:
    """How many of the clips something holds for."""
    found = list(flags)
    value = sum(found) / len(found)
    return Estimate(value, *interval(value, len(found)))


def average(values: Iterable[float | None] | Tensor) -> Estimate:
    """The mean of those that there are: None and nan stand for clips without the figure."""
    return _resampled(values, lambda rows: rows.mean(-1))


def typical(values: Iterable[float | None] | Tensor) -> Estimate:
    """The median of those that there are."""
    return _resampled(values, lambda rows: rows.quantile(0.5, dim=-1))


def _resampled(values: Iterable[float | None] | Tensor, statistic: Callable[[Tensor], Tensor]) -> Estimate:
    given = values.tolist() if isinstance(values, Tensor) else [float("nan") if v is None else v for v in values]
    found = torch.tensor(given, dtype=torch.float64)
    found = found[~found.isnan()]
    if not len(found):
        return Estimate(*[float("nan")] * 3)
    drawn = torch.randint(len(found), (RESAMPLES, len(found)), generator=torch.Generator().manual_seed(0))
    ends = statistic(found[drawn]).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(statistic(found).item(), *ends)
