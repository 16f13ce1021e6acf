"""UniPC: each estimate also corrects the step that led to it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from kinema_core import Denoise, Diffusion, Sampler
from torch import Tensor

from kinema_sampling.samplers.dpmpp_2m import extrapolated, slope, step_size
from kinema_sampling.samplers.steps import Level, decay, first_order, mix, walk


@dataclass(frozen=True)
class UniPCSampler(Sampler):
    """UniPC-2 (Zhao et al. 2023, algorithms 5 and 6) on clean estimates with B(h) = exp(h) - 1, for any law.

    Its predictor is the step of `dpmpp_2m`. When the estimate at the step's end is known, the step is taken again with
    it (the corrector), which costs no evaluation and brings the order to 3. The first step is corrected to second
    order; steps of infinite h, and the last, are not corrected.
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
        last: _Step | None = None
        for step, now, then in walk(times, law):
            x0 = denoise(x, times[step])
            before = None
            if last is not None:
                x = last.corrected(x, x0)
                before = last.x0, last.h
            last = _Step(x, x0, now, then, step_size(now, then), before)
            x = first_order(x, extrapolated(x0, last.h, before), now, then)
            if callback:
                callback(step, x0)
        return x


@dataclass(frozen=True)
class _Step:
    """A step that was taken: from x with the estimate x0, of size h; the estimate and the size before, if any."""

    x: Tensor
    x0: Tensor
    now: Level
    then: Level
    h: Tensor
    before: tuple[Tensor, Tensor] | None

    def corrected(self, predicted: Tensor, x0: Tensor) -> Tensor:
        """Where the step ends, given the estimate x0 (N, C) there; as predicted where it is infinite."""
        known = self.h.isfinite() & (self.h > 0)
        h, q = torch.where(known, self.h, 1), torch.where(known, decay(self.now, self.then), 0)
        rise, share, older = x0 - self.x0, torch.full_like(h, 0.5), torch.zeros_like(h)
        terms = [rise]
        if self.before is not None:
            # The weights of both differences solve two linear equations (eq. 10), with r = -h_before / h.
            h_before = self.before[1]
            two = known & h_before.isfinite() & (h_before > 0)
            r = torch.where(two, -h_before / h, -1)
            first = 1 / (1 - q) - 1 / h
            second = (1 - 2 * (1 - (1 - q) / h) / h) / (1 - q)
            older = torch.where(two, (second - first) / (r - 1), 0)
            share = torch.where(two, first - older, 0.5)
            terms.append(slope(self.x0, self.h, self.before))
        base = first_order(self.x, self.x0, self.now, self.then)
        gain = self.then.alpha * (1 - q)
        change = mix(*zip((gain * share, gain * older), terms, strict=False))
        return torch.where(known, base + change, predicted)
