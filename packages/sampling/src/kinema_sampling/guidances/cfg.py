"""Classifier-free guidance."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from kinema_core import Diffusion, Guidance, Guide, Predict, Ragged
from torch import Tensor

from kinema_sampling.laws.preconditioned import noise_level


@dataclass(frozen=True, kw_only=True)
class ClassifierFreeGuidance(Guidance):
    """Classifier-free guidance (Ho & Salimans 2022) on clean estimates: uncond + scale (cond - uncond).

    Both branches are evaluated in one pack; where no cell is guided, only "cond" is. With an interval
    (Kynkäänniemi et al. 2024) cells of other noise levels take the conditional estimate as it is.

    Args:
        scale: 1: no guidance; 0: unconditional.
        interval: (lowest, highest) noise level sigma / (alpha + sigma) that is guided, within [0, 1].

    Raises:
        ValueError: the interval is not two rising numbers in [0, 1].
    """

    scale: float = 4.0
    interval: Sequence[float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_interval(self.interval)

    def start(self, x: Ragged, law: Diffusion) -> Guide:
        """Begin a run; this guidance has no state."""
        lowest, highest = self.interval

        def guide(predict: Predict, x_t: Tensor, t: Tensor) -> Tensor:
            noise = noise_level(law, t)
            guided = (noise >= lowest) & (noise <= highest)  # (N,)
            if self.scale == 1 or not guided.any():
                return predict(("cond",))[0]
            cond, uncond = predict(("cond", "uncond"))
            return torch.where(guided[:, None], uncond + self.scale * (cond - uncond), cond)

        return guide


def check_interval(interval: Sequence[float]) -> None:
    """Raise ValueError where it is not two rising numbers in [0, 1]."""
    if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
        raise ValueError(f"interval = {interval}; it is the lowest and the highest noise level, in [0, 1]")
