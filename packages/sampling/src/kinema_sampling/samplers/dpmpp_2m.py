"""DPM-Solver++(2M): second order at one evaluation a step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from kinema_core import Denoise, Diffusion, Sampler
from torch import Tensor

from kinema_sampling.samplers.steps import decay, first_order, walk


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
        before = h_before = None
        for step, now, then in walk(times, law):
            x0 = denoise(x, times[step])
            h = -torch.log(decay(now, then))  # (N, 1), inf where q = 0
            guess = x0
            if before is not None and h_before is not None:
                known = h.isfinite() & h_before.isfinite() & (h_before > 0)
                gain = torch.where(known, h / torch.where(known, 2 * h_before, 1), 0)
                guess = x0 + gain.to(x0.dtype) * (x0 - before)
            x = first_order(x, guess, now, then)
            before, h_before = x0, h
            if callback:
                callback(step, x0)
        return x
