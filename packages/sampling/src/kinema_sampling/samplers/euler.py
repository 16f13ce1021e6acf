"""Euler's method on the probability flow."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from kinema_sampling.samplers.steps import Level, SingleStepSampler, first_order


@dataclass(frozen=True)
class EulerSampler(SingleStepSampler):
    """Euler's method on the probability flow dx = x0 dalpha + eps dsigma; order 1, no noise.

    For `flow` that is Euler in t, for `edm` Euler in sigma (Karras et al. 2022, algorithm 1 without the correction).
    With x0 and eps held over a step, x_t + (alpha_s - alpha_t) x0 + (sigma_s - sigma_t) eps is the same expression as
    DDIM's: this sampler and `ddim` with eta 0 agree for every law, and both names exist because both are asked for.
    """

    def step(self, x: Tensor, x0: Tensor, now: Level, then: Level, noise: Callable[[], Tensor]) -> Tensor:
        """The first-order step."""
        return first_order(x, x0, now, then)
