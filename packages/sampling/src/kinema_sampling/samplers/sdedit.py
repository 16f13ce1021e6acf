"""SDEdit: start part-way down the schedule, from noised latents that are given."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from kinema_core import Denoise, Diffusion, Sampler
from torch import Tensor

from kinema_sampling.samplers.dpmpp_2m import DPMpp2MSampler
from kinema_sampling.samplers.steps import level, mix


@dataclass(frozen=True, kw_only=True)
class SDEditSampler(Sampler):
    """SDEdit (Meng et al. 2022) around another sampler: x is clean, noised to a time part-way down, then denoised.

    The last round(strength * S) of the S steps are run, at least one above strength 0. Step numbers, for noise and
    callback, stay those of the whole schedule, so that at strength 1, where the law ends at alpha = 0, this is the base
    sampler begun with `noise(-1)`.

    Args:
        base: the sampler that runs the steps.
        strength: share of the steps that are run, in [0, 1]: 0 returns x as it is, 1 leaves of it what the law leaves.

    Raises:
        ValueError: strength is not in [0, 1], or the base begins with clean latents too.
    """

    from_clean: ClassVar[bool] = True
    base: Sampler = DPMpp2MSampler()
    strength: float = 0.6

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength = {self.strength}; it is from 0 (as given) to 1 (from pure noise)")
        if self.base.from_clean:
            raise ValueError(f"base = {self.base}; it is a sampler that begins with noise")

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
        """See `kinema_core.Sampler`; x is clean."""
        num_steps = len(times) - 1
        first = num_steps - max(round(self.strength * num_steps), int(self.strength > 0))
        if first == num_steps:
            return x
        start = level(law, times[first])
        return self.base(
            denoise,
            mix((start.alpha, x), (start.sigma, noise(-1))),
            times[first:],
            law,
            noise=lambda step: noise(step + first if step >= 0 else step),
            callback=(lambda step, x0: callback(step + first, x0)) if callback else None,
        )
