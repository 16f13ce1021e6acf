"""What the samplers share: noise levels, the walk down the times, and the first-order step.

From t to a cleaner s, with q = (alpha_t sigma_s) / (alpha_s sigma_t) = exp(-h) for a step of h in log(alpha / sigma).
q is 0 where h is infinite: from pure noise (alpha_t = 0), to clean data (sigma_s = 0), and in cells that are clean all
along (sigma_t = 0). There second-order samplers take the first-order step.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from kinema_core import Denoise, Diffusion, Sampler
from torch import Tensor


class Level(NamedTuple):
    """Scales of data and noise at one time, each (N, 1)."""

    alpha: Tensor
    sigma: Tensor


def level(law: Diffusion, t: Tensor) -> Level:
    """The scales at times (N,)."""
    return Level(law.alpha(t)[:, None], law.sigma(t)[:, None])


def walk(times: Tensor, law: Diffusion) -> Iterator[tuple[int, Level, Level]]:
    """(step, level at its start, level at its end) for each step of times (S + 1, N)."""
    now = level(law, times[0])
    for step, s in enumerate(times[1:]):
        then = level(law, s)
        yield step, now, then
        now = then


def mix(first: tuple[Tensor, Tensor], *rest: tuple[Tensor, Tensor]) -> Tensor:
    """The sum of scale (N, 1) x values (N, C), in the dtype of the values: times may be float64, latents are not."""
    total, *others = (scale.to(values.dtype) * values for scale, values in (first, *rest))
    return sum(others, total)


def ratio(now: Level, then: Level) -> Tensor:
    """sigma_s / sigma_t, and 0 where sigma_t = 0."""
    return _quotient(then.sigma, now.sigma)


def decay(now: Level, then: Level) -> Tensor:
    """q = exp(-h), and 0 where h is infinite."""
    return _quotient(now.alpha * then.sigma, then.alpha * now.sigma).clamp(max=1)  # rounding may pass 1


def first_order(x: Tensor, x0: Tensor, now: Level, then: Level) -> Tensor:
    """x_s = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s / sigma_t) x0: the step of one noise estimate."""
    r = ratio(now, then)
    return mix((r, x), (then.alpha - now.alpha * r, x0))


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)


class SingleStepSampler(Sampler):
    """A sampler whose step needs one estimate and remembers nothing; to be given by `step`."""

    @abstractmethod
    def step(self, x: Tensor, x0: Tensor, now: Level, then: Level, noise: Callable[[], Tensor]) -> Tensor:
        """From x (N, C) at `now` and its clean estimate x0 to `then`; `noise()` is standard normal like x."""

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
        for step, now, then in walk(times, law):
            x0 = denoise(x, times[step])
            x = self.step(x, x0, now, then, lambda step=step: noise(step))
            if callback:
                callback(step, x0)
        return x
