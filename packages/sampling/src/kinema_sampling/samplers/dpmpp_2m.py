"""DPM-Solver++(2M), deterministic or stochastic: second order at one evaluation a step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from kinema_core import Denoise, Diffusion, Sampler
from torch import Tensor

from kinema_sampling.samplers.steps import Level, decay, first_order, mix, ratio, walk


@dataclass(frozen=True)
class DPMpp2MSampler(Sampler):
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) for any law; order 2, deterministic.

    The first-order step on an estimate that is extrapolated in log(alpha / sigma) to the step's middle:
    x0 + h / (2 h_before) (x0 - x0_before). The first step, and every step of infinite h or after one, is plain first
    order; each cell goes by its own times.
    """

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
        before: tuple[Tensor, Tensor] | None = None
        for step, now, then in walk(times, law):
            x0 = denoise(x, times[step])
            h = step_size(now, then)
            x = self.step(x, extrapolated(x0, h, before), now, then, lambda step=step: noise(step))
            before = x0, h
            if callback:
                callback(step, x0)
        return x

    def step(self, x: Tensor, x0: Tensor, now: Level, then: Level, noise: Callable[[], Tensor]) -> Tensor:
        """From x (N, C) at `now` and an estimate for the whole step to `then`."""
        return first_order(x, x0, now, then)


@dataclass(frozen=True, kw_only=True)
class DPMpp2MSDESampler(DPMpp2MSampler):
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, eq. 18) for any law: the same estimates, and fresh noise in every step.

    x_s = (sigma_s / sigma_t) q^eta x_t + alpha_s (1 - q^(1 + eta)) x0 + sigma_s sqrt(1 - q^(2 eta)) noise with
    q = exp(-h).

    Args:
        eta: how much of the noise is fresh, in [0, 1]: 1 as in the paper, 0 the same as `dpmpp_2m`.

    Raises:
        ValueError: eta is not in [0, 1].
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta = {self.eta}; it is from 0 (deterministic) to 1")

    def step(self, x: Tensor, x0: Tensor, now: Level, then: Level, noise: Callable[[], Tensor]) -> Tensor:
        """See the class."""
        if self.eta == 0:
            return super().step(x, x0, now, then, noise)
        q = decay(now, then)
        fresh = then.sigma * torch.sqrt(1 - q ** (2 * self.eta))
        return mix((ratio(now, then) * q**self.eta, x), (then.alpha * (1 - q ** (1 + self.eta)), x0), (fresh, noise()))


def step_size(now: Level, then: Level) -> Tensor:
    """h, the step in log(alpha / sigma): (N, 1), infinite where q is 0."""
    return -torch.log(decay(now, then))


def extrapolated(x0: Tensor, h: Tensor, before: tuple[Tensor, Tensor] | None) -> Tensor:
    """The estimate x0 moved to the middle of a step of size h, by the estimate and step before it."""
    return x0 if before is None else x0 + slope(x0, h, before) / 2


def slope(x0: Tensor, h: Tensor, before: tuple[Tensor, Tensor]) -> Tensor:
    """By how much estimates rise over a step of size h (N, 1), going by the one before; 0 where a step is infinite."""
    x0_before, h_before = before
    known = h.isfinite() & h_before.isfinite() & (h_before > 0)
    gain = torch.where(known, h / torch.where(known, h_before, 1), 0)
    return gain.to(x0.dtype) * (x0 - x0_before)
