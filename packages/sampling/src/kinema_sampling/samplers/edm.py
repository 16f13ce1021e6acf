"""Heun's method with optional churn."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from kinema_core import Denoise, Diffusion, Sampler
from torch import Tensor

from kinema_sampling.samplers.steps import Level, decay, first_order, level, mix, walk


@dataclass(frozen=True, kw_only=True)
class EDMSampler(Sampler):
    """EDM's stochastic Heun sampler (Karras et al. 2022, algorithm 2) for any law; order 2, two evaluations a step.

    The paper's method on x / alpha and sigma / alpha. There Heun's average of two slopes adds to the first-order step
    alpha_s (1 / q - 1) (x0' - x0) / 2, with x0' the estimate at its end: zero when the estimate does not move, and
    left out where q = 0 (pure noise, the last step).

    Args:
        s_churn: fresh noise over the whole run, >= 0; 0 is deterministic.
        s_min: churn only where sigma / alpha is at least this.
        s_max: churn only where sigma / alpha is at most this.
        s_noise: deviation of the fresh noise, > 0; the paper uses up to 1.007.

    Raises:
        ValueError: an argument is out of its range.
    """

    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        if self.s_churn < 0 or not self.s_noise > 0 or self.s_min > self.s_max:
            raise ValueError(
                f"s_churn = {self.s_churn}, s_min = {self.s_min}, s_max = {self.s_max}, s_noise = {self.s_noise}; "
                "they need s_churn >= 0, s_min <= s_max and s_noise > 0"
            )

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        times: Tensor,
        law: Diffusion,
        *,
        noise: Callable[[int], Tensor],
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """See `kinema_core.Sampler`."""
        for step, start, then in walk(times, law):
            t, now = times[step], start
            if self.s_churn > 0:
                t, now = self._noisier(t, start, law, len(times) - 1)
                x = self._churned(x, start, now, noise(step))
            x0 = denoise(x, t)
            x = first_order(x, x0, now, then)
            q = decay(now, then)
            if (q > 0).any():  # otherwise the correction is nil in every cell: save the evaluation
                gain = then.alpha * (1 / torch.where(q > 0, q, 1) - 1) / 2
                x = x + mix((gain, denoise(x, times[step + 1]) - x0))
            if callback:
                callback(step, x0)
        return x

    def _noisier(self, t: Tensor, now: Level, law: Diffusion, num_steps: int) -> tuple[Tensor, Level]:
        """The time whose sigma / alpha is that of t times 1 + gamma, as far as the law goes."""
        gamma = min(self.s_churn / num_steps, math.sqrt(2) - 1)
        alpha, sigma = now.alpha[:, 0], now.sigma[:, 0]
        moves = (alpha > 0) & (sigma > 0) & (sigma >= self.s_min * alpha) & (sigma <= self.s_max * alpha)
        log_snr = 2 * (torch.where(moves, alpha, 1).log() - torch.where(moves, sigma, 1).log() - math.log1p(gamma))
        t = torch.where(moves, torch.maximum(law.time_at(log_snr), t), t)
        return t, level(law, t)

    def _churned(self, x: Tensor, now: Level, noisier: Level, noise: Tensor) -> Tensor:
        """Scale x to the noisier level and add the variance that is missing there."""
        scale = torch.where(now.alpha > 0, noisier.alpha / torch.where(now.alpha > 0, now.alpha, 1), 1)
        missing = (noisier.sigma.square() - (scale * now.sigma).square()).clamp(min=0)
        return mix((scale, x), (self.s_noise * missing.sqrt(), noise))
