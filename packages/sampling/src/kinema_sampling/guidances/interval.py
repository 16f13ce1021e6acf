"""Any guidance, in a range of noise levels only."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from kinema_core import Diffusion, Guidance, Guide, Predict, Ragged
from torch import Tensor

from kinema_sampling.guidances.cfg import ClassifierFreeGuidance, check_interval
from kinema_sampling.laws.preconditioned import noise_level


@dataclass(frozen=True, kw_only=True)
class IntervalGuidance(Guidance):
    """Another guidance within an interval of noise levels (Kynkäänniemi et al. 2024); outside the conditional estimate.

    Where no cell is within it only the branch "cond" is evaluated.

    Args:
        base: the guidance.
        interval: (lowest, highest) noise level sigma / (alpha + sigma) that is guided, within [0, 1].

    Raises:
        ValueError: the interval is not two rising numbers in [0, 1].
    """

    base: Guidance = ClassifierFreeGuidance()
    interval: Sequence[float] = (0.2, 0.9)

    def __post_init__(self) -> None:
        check_interval(self.interval)

    def start(self, x: Ragged, law: Diffusion) -> Guide:
        """Begin a run of the base."""
        base = self.base.start(x, law)
        lowest, highest = self.interval

        def guide(predict: Predict, x_t: Tensor, t: Tensor) -> Tensor:
            noise = noise_level(law, t)
            inside = (noise >= lowest) & (noise <= highest)  # (N,)
            if not inside.any():
                return predict(("cond",))[0]
            estimates: dict[str, Tensor] = {}

            def remembering(names: Sequence[str]) -> tuple[Tensor, ...]:
                found = predict(names)
                estimates.update(zip(names, found, strict=True))
                return found

            guided = base(remembering, x_t, t)
            if inside.all():
                return guided
            cond = estimates["cond"] if "cond" in estimates else predict(("cond",))[0]
            return torch.where(inside[:, None], guided, cond)

        return guide
