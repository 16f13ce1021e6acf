"""Adaptive projected guidance: what raises the contrast is taken out of the guidance."""

from dataclasses import dataclass

import torch
from kinema_core import Diffusion, Guidance, Guide, Predict, Ragged
from torch import Tensor

from kinema_sampling.guidances.clips import clip_mean


@dataclass(frozen=True, kw_only=True)
class ProjectedGuidance(Guidance):
    """Adaptive projected guidance (Sadat et al. 2024, algorithm 1) on clean estimates.

    The difference of the branches is averaged over steps with a negative momentum, limited in norm, and split into a
    part parallel to the conditional estimate, which oversaturates, and one orthogonal to it:
    cond + (scale - 1) (orthogonal + eta parallel). Norms and projections are of each clip.

    Args:
        scale: as of `cfg`.
        eta: how much of the parallel part is kept; 1 with the next two off is `cfg`.
        momentum: of the running difference, in (-1, 1); the paper has -0.5 and -0.75.
        max_norm: bound of the difference's root mean square per value, > 0; None: none. The paper's bound is of the
            whole norm, which grows with the size of a clip.

    Raises:
        ValueError: an argument is out of its range.
    """

    scale: float = 4.0
    eta: float = 0.0
    momentum: float = -0.5
    max_norm: float | None = None

    def __post_init__(self) -> None:
        if not -1 < self.momentum < 1:
            raise ValueError(f"momentum = {self.momentum}; it is in (-1, 1)")
        if self.max_norm is not None and not self.max_norm > 0:
            raise ValueError(f"max_norm = {self.max_norm}; it is above 0, or None for no bound")

    def start(self, x: Ragged, law: Diffusion) -> Guide:
        """Begin a run, in which differences add up."""
        running: Tensor | None = None

        def guide(predict: Predict, x_t: Tensor, t: Tensor) -> Tensor:
            nonlocal running
            cond, uncond = predict(("cond", "uncond"))
            difference = cond - uncond
            if running is not None:
                difference = difference + self.momentum * running
            running = difference
            if self.max_norm is not None:
                norm = clip_mean(x, difference.square()).sqrt()
                difference = difference * (self.max_norm / norm.clamp(min=self.max_norm))
            square = clip_mean(x, cond.square())
            share = torch.where(square > 0, clip_mean(x, difference * cond) / torch.where(square > 0, square, 1), 0)
            parallel = share * cond
            return cond + (self.scale - 1) * (difference + (self.eta - 1) * parallel)

        return guide
