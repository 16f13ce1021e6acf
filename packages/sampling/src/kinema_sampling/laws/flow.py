"""Rectified flow: a straight line from data to noise."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from kinema_sampling.laws.preconditioned import PreconditionedLaw
from kinema_sampling.predictions import Scales
from kinema_sampling.schedules import shifted, trailing


@dataclass(frozen=True, kw_only=True)
class FlowLaw(PreconditionedLaw):
    """Rectified flow (Liu et al. 2022): x_t = (1 - t) x0 + t eps, t in [0, 1]; the network predicts eps - x0.

    Training times are logit-normal (Esser et al. 2024, section 3.1) with a share of uniform ones, loss weight 1.
    Large clips need more noise for the same loss of detail: `base_shift` at `base_tokens` cells and fewer to
    `max_shift` at `max_tokens` and more, log-linear between (as LTX-Video), multiplies sigma / alpha in training and
    sampling. `shift` multiplies it in sampling only.

    Args:
        time_mean: mean of log(sigma / alpha), the logit of t, in training.
        time_std: its standard deviation, > 0.
        uniform_share: share of training times that are uniform in [0, 1] instead, so that all t are seen.
        shift: shift of the sampling times, > 0; above 1 spends more steps at high noise.
        base_shift: shift by size of a clip of `base_tokens` cells, > 0.
        max_shift: shift by size of a clip of `max_tokens` cells, > 0.
        base_tokens: latent cells of a clip, > 0.
        max_tokens: latent cells of a clip, > `base_tokens`.

    Raises:
        ValueError: an argument is out of its range.
    """

    time_mean: float = 0.0
    time_std: float = 1.0
    uniform_share: float = 0.1
    shift: float = 3.0
    base_shift: float = 1.0
    max_shift: float = 1.0
    base_tokens: int = 1024
    max_tokens: int = 4096

    def __post_init__(self) -> None:
        for key in ("time_std", "shift", "base_shift", "max_shift"):
            if not getattr(self, key) > 0:
                raise ValueError(f"{key} = {getattr(self, key)}; it must be above 0")
        if not 0 <= self.uniform_share <= 1:
            raise ValueError(f"uniform_share = {self.uniform_share}; a share is from 0 to 1")
        if not 0 < self.base_tokens < self.max_tokens:
            raise ValueError(f"base_tokens = {self.base_tokens} must be in (0, max_tokens = {self.max_tokens})")

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """t."""
        return t

    def time_at(self, log_snr: Tensor) -> Tensor:
        """sigmoid(-log_snr / 2), in [0, 1]."""
        return torch.sigmoid(-log_snr / 2)

    def size_shift(self, num_tokens: Tensor) -> Tensor:
        """The shift of clips of these numbers of cells: (B,) -> (B,) float64."""
        share = (num_tokens.double() - self.base_tokens) / (self.max_tokens - self.base_tokens)
        log_base, log_max = math.log(self.base_shift), math.log(self.max_shift)
        return torch.exp(log_base + share.clamp(0, 1) * (log_max - log_base))

    def sample_times(self, num_tokens: Tensor, generator: Generator | None = None) -> Tensor:
        """Training times (B,) in [0, 1], float32."""
        logit = self.time_mean + self.time_std * torch.randn(len(num_tokens), generator=generator)
        pick, even = torch.rand(2, len(num_tokens), generator=generator)
        normal = shifted(torch.sigmoid(logit), self.size_shift(num_tokens.cpu()).float())
        return torch.where(pick < self.uniform_share, even, normal).to(num_tokens.device)

    def times(self, num_steps: int, num_tokens: Tensor) -> Tensor:
        """Equal steps from 1 to 0, shifted: (num_steps + 1, B) float64."""
        even = trailing(num_steps).to(num_tokens.device)[:, None]
        return shifted(even, self.shift * self.size_shift(num_tokens))

    def target_scales(self, t: Tensor) -> Scales:
        """F = eps - x0."""
        return -torch.ones_like(t), torch.ones_like(t)

    def input_scale(self, t: Tensor) -> Tensor:
        """1: x_t of whitened data has a deviation between 0.7 and 1 at every t."""
        return torch.ones_like(t)

    def weight(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)
