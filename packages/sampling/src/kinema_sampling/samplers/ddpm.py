"""Ancestral sampling: draw each step from the posterior."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kinema_sampling.samplers.steps import Level, SingleStepSampler, decay, mix, ratio


@dataclass(frozen=True)
class DDPMSampler(SingleStepSampler):
    """Ancestral sampling (Ho et al. 2020, eq. 6 and 7; for any law Kingma et al. 2021, eq. 25).

    x_s ~ q(x_s | x_t, x0) with the estimate in place of x0: mean (q sigma_s / sigma_t) x_t + alpha_s (1 - q^2) x0 and
    variance sigma_s^2 (1 - q^2), the smaller of the paper's two choices (the larger is not exact for laws that do not
    preserve variance). Stochastic; the mean and variance of its samples are exact to order 1.
    """

    def step(self, x: Tensor, x0: Tensor, now: Level, then: Level, noise: Callable[[], Tensor]) -> Tensor:
        """A draw from the posterior."""
        q = decay(now, then)
        fresh = 1 - q.square()
        return mix((q * ratio(now, then), x), (then.alpha * fresh, x0), (then.sigma * torch.sqrt(fresh), noise()))
