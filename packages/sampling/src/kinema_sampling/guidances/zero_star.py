"""CFG-Zero*: guidance of a flow that begins at rest."""

from dataclasses import dataclass

import torch
from kinema_core import Diffusion, Guidance, Guide, Predict, Ragged
from torch import Tensor

from kinema_sampling.guidances.clips import clip_mean
from kinema_sampling.laws.preconditioned import noise_level


@dataclass(frozen=True, kw_only=True)
class ZeroStarGuidance(Guidance):
    """CFG-Zero* (Fan et al. 2025, algorithm 1), for any law.

    The unconditional velocity is first scaled so that it is nearest to the conditional one, clip by clip:
    v = (1 - w) s v_uncond + w v_cond with s = <v_cond, v_uncond> / |v_uncond|^2. In the first steps, where a velocity
    is least to be trusted, it is zero.

    The velocity is that of the straight line to which a law is brought by dividing by alpha + sigma:
    v = (x / (alpha + sigma) - x0) / l with the noise level l = sigma / (alpha + sigma), which is t for the flow law.

    Args:
        scale: w, as of `cfg`.
        zero_above: noise level above which the velocity is zero, in (0, 1]; 1: nowhere. The paper leaves out the first
            4 % of the steps.

    Raises:
        ValueError: zero_above is not in (0, 1].
    """

    scale: float = 4.0
    zero_above: float = 0.985

    def __post_init__(self) -> None:
        if not 0 < self.zero_above <= 1:
            raise ValueError(f"zero_above = {self.zero_above}; it is a noise level above 0 and at most 1")

    def start(self, x: Ragged, law: Diffusion) -> Guide:
        """Begin a run; this guidance has no state."""

        def guide(predict: Predict, x_t: Tensor, t: Tensor) -> Tensor:
            cond, uncond = predict(("cond", "uncond"))
            noise = noise_level(law, t)[:, None].to(x_t.dtype)  # (N, 1)
            straight = x_t / (law.alpha(t) + law.sigma(t))[:, None].to(x_t.dtype)
            # Velocities times the noise level: finite where that is zero, and the same ratio within a noise level.
            with_text, without = straight - cond, straight - uncond
            over = torch.where(noise > 0, noise, 1)
            square = clip_mean(x, (without / over).square())
            likeness = clip_mean(x, with_text * without / over.square())
            nearest = torch.where(square > 0, likeness / torch.where(square > 0, square, 1), 1)
            guided = straight - (nearest * without + self.scale * (with_text - nearest * without))
            return torch.where(noise > self.zero_above, straight, guided)

        return guide
