"""DDIM: from deterministic to ancestral by one number."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kinema_sampling.samplers.steps import Level, SingleStepSampler, decay, mix, ratio


@dataclass(frozen=True, kw_only=True)
class DDIMSampler(SingleStepSampler):
    """DDIM (Song et al. 2020, eq. 12 and 16), written for any alpha and sigma; order 1.

    x_s = alpha_s x0 + sqrt(sigma_s^2 - up^2) eps + up noise with up = eta sigma_s sqrt(1 - q^2), where q^2 is the
    ratio of the signal-to-noise ratios at the step's start and end.

    Args:
        eta: 0: deterministic, the same as `euler`; 1: as much noise as `ddpm`. In [0, 1].

    Raises:
        ValueError: eta is not in [0, 1].
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta = {self.eta}; it is from 0 (deterministic) to 1 (ancestral)")

    def step(self, x: Tensor, x0: Tensor, now: Level, then: Level, noise: Callable[[], Tensor]) -> Tensor:
        """eps = (x - alpha_t x0) / sigma_t is never formed, so that sigma_t may be 0."""
        fresh = self.eta**2 * (1 - decay(now, then).square())
        kept = ratio(now, then) * torch.sqrt(1 - fresh)
        moved = mix((kept, x), (then.alpha - now.alpha * kept, x0))
        return moved if self.eta == 0 else moved + mix((then.sigma * torch.sqrt(fresh), noise()))
