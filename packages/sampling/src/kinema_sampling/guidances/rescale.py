"""Classifier-free guidance that keeps the deviation of the conditional estimate."""

from dataclasses import dataclass

import torch
from kinema_core import Diffusion, Guidance, Guide, Predict, Ragged
from torch import Tensor

from kinema_sampling.guidances.clips import clip_std


@dataclass(frozen=True, kw_only=True)
class RescaledGuidance(Guidance):
    """Classifier-free guidance, rescaled (Lin et al. 2023, eq. 14 to 16).

    A large scale makes the clean estimate too strong in contrast. It is brought back to the deviation of the
    conditional estimate of the same clip, and mixed with what it was.

    Args:
        scale: as of `cfg`.
        rescale: share of the rescaled estimate, in [0, 1]; the paper has 0.7.

    Raises:
        ValueError: rescale is not in [0, 1].
    """

    scale: float = 4.0
    rescale: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale = {self.rescale}; it is from 0 (plain guidance) to 1")

    def start(self, x: Ragged, law: Diffusion) -> Guide:
        """Begin a run; this guidance has no state."""

        def guide(predict: Predict, x_t: Tensor, t: Tensor) -> Tensor:
            cond, uncond = predict(("cond", "uncond"))
            guided = uncond + self.scale * (cond - uncond)
            wanted, found = clip_std(x, cond), clip_std(x, guided)
            factor = torch.where(found > 0, wanted / torch.where(found > 0, found, 1), 1)
            return guided * torch.lerp(torch.ones_like(factor), factor, self.rescale)

        return guide
