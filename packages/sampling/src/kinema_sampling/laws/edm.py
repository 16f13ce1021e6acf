"""EDM: noise of growing deviation on unscaled data."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from kinema_sampling.laws.preconditioned import PreconditionedLaw
from kinema_sampling.predictions import Scales
from kinema_sampling.schedules import karras


@dataclass(frozen=True, kw_only=True)
class EDMLaw(PreconditionedLaw):
    """EDM (Karras et al. 2022, table 1): x_t = x0 + t eps, t = sigma in [0, sigma_max].

    Latents are whitened, so sigma_data = 1 and c_skip = 1 / (1 + sigma^2), c_out = sigma / sqrt(1 + sigma^2),
    c_in = 1 / sqrt(1 + sigma^2). Instead of c_noise = log(sigma) / 4 the network is told sigma / (1 + sigma), which is
    finite when clean.

    The paper's loss lambda |D - x0|^2 with lambda = (1 + sigma^2) / sigma^2 is |F - (x0 - c_skip x_t) / c_out|^2.
    Written out, that target is (sigma x0 - eps) / sqrt(1 + sigma^2), which needs no division by sigma.

    Args:
        time_mean: mean of log sigma in training (P_mean). The paper's -1.2 for sigma_data 0.5 is -0.5 for 1.
        time_std: its standard deviation (P_std), > 0.
        sigma_min: last noise level of the sampling times before 0, > 0.
        sigma_max: first noise level of the sampling times, and the largest of all, > `sigma_min`.
        rho: curvature of the sampling times, > 0.

    Raises:
        ValueError: an argument is out of its range.
    """

    time_mean: float = -0.5
    time_std: float = 1.2
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        for key in ("time_std", "rho"):
            if not getattr(self, key) > 0:
                raise ValueError(f"{key} = {getattr(self, key)}; it must be above 0")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min = {self.sigma_min} must be in (0, sigma_max = {self.sigma_max})")

    def alpha(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """t."""
        return t

    def time_at(self, log_snr: Tensor) -> Tensor:
        """exp(-log_snr / 2), at most sigma_max."""
        return torch.exp(-log_snr / 2).clamp(max=self.sigma_max)

    def sample_times(self, num_tokens: Tensor, generator: Generator | None = None) -> Tensor:
        """Training times (B,), log-normal, at most sigma_max, float32; the size of a clip has no effect."""
        log_sigma = self.time_mean + self.time_std * torch.randn(len(num_tokens), generator=generator)
        return log_sigma.exp().clamp(max=self.sigma_max).to(num_tokens.device)

    def times(self, num_steps: int, num_tokens: Tensor) -> Tensor:
        """The schedule of eq. 5, the same for every size: (num_steps + 1, B) float64."""
        sigmas = karras(num_steps, self.sigma_max, self.sigma_min, self.rho)
        return sigmas.to(num_tokens.device)[:, None].expand(-1, len(num_tokens))

    def target_scales(self, t: Tensor) -> Scales:
        """F = (sigma x0 - eps) / sqrt(1 + sigma^2)."""
        c_in = self.input_scale(t)
        return t * c_in, -c_in

    def input_scale(self, t: Tensor) -> Tensor:
        """1 / sqrt(1 + sigma^2): the network's input has deviation 1."""
        return torch.rsqrt(1 + t.square())

    def weight(self, t: Tensor) -> Tensor:
        """lambda c_out^2 = 1."""
        return torch.ones_like(t)
