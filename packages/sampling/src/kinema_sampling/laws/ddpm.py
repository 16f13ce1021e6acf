"""DDPM: variance-preserving noise, in continuous time."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from kinema_sampling.laws.preconditioned import PreconditionedLaw
from kinema_sampling.predictions import Prediction, Scales, prediction_scales
from kinema_sampling.schedules import trailing, uniform

#: The rates of DDPM's 1000 steps from beta 1e-4 to 0.02, in continuous time (Song et al. 2021, appendix C).
BETA_MIN, BETA_MAX = 0.1, 20.0
#: Angles of the cosine schedule (Nichol & Dhariwal 2021, eq. 17, s = 0.008). The paper clips beta in the last of 1000
#: steps, where alpha would vanish; we end one step earlier, at alpha = 0.0016.
_COSINE_START = 0.008 / 1.008 * math.pi / 2
_COSINE_SPAN = 0.999 / 1.008 * math.pi / 2


# A schedule is given by the loss of signal u(t) = 1 - alpha(t), which unlike alpha keeps its digits near t = 0.
def _linear_loss(t: Tensor) -> Tensor:
    return -torch.expm1(-(BETA_MIN / 2 * t + (BETA_MAX - BETA_MIN) / 4 * t.square()))


def _linear_time(loss: Tensor) -> Tensor:
    minus_log_alpha, b = -torch.log1p(-loss), BETA_MIN / 2
    return 2 * minus_log_alpha / (b + torch.sqrt(b**2 + (BETA_MAX - BETA_MIN) * minus_log_alpha))


def _cosine_loss(t: Tensor) -> Tensor:
    half = _COSINE_SPAN * t / 2  # cos a0 - cos a = 2 sin((a + a0) / 2) sin((a - a0) / 2)
    return 2 * torch.sin(_COSINE_START + half) * torch.sin(half) / math.cos(_COSINE_START)


def _cosine_time(loss: Tensor) -> Tensor:
    versine = 2 * math.sin(_COSINE_START / 2) ** 2 + loss * math.cos(_COSINE_START)  # 1 - cos a
    return (2 * torch.asin(torch.sqrt(versine / 2)) - _COSINE_START) / _COSINE_SPAN


_SCHEDULES = {"linear": (_linear_loss, _linear_time), "cosine": (_cosine_loss, _cosine_time)}
_SPACINGS = {"trailing": trailing, "uniform": uniform}


@dataclass(frozen=True, kw_only=True)
class DDPMLaw(PreconditionedLaw):
    """DDPM (Ho et al. 2020) in continuous time: alpha^2 + sigma^2 = 1, t in [0, 1].

    The loss is the plain mean square of the prediction, or min-SNR (Hang et al. 2023). Zero terminal SNR stretches
    alpha so that it ends at 0 (Lin et al. 2023, algorithm 1): u(t) / u(1) in terms of u = 1 - alpha.

    Args:
        prediction: what the network predicts: "v" (= alpha eps - sigma x0), "eps" or "x0".
        schedule: "linear" (beta) or "cosine".
        zero_terminal_snr: whether the signal vanishes at t = 1. Not with "eps", which says nothing of x0 there.
        min_snr: gamma of the weight min(SNR, gamma) on the error of x0, > 0; None: weight 1 on the prediction's error.
            At zero terminal SNR the weight of t = 1 is 0.
        spacing: of the sampling times: "trailing" (equal steps from 1 to 0) or "uniform" (from 1 to 0.001, then 0).

    Raises:
        ValueError: an argument is out of its range, or "eps" is asked for with zero terminal SNR.
    """

    prediction: Prediction = "v"
    schedule: Literal["linear", "cosine"] = "linear"
    zero_terminal_snr: bool = False
    min_snr: float | None = None
    spacing: Literal["trailing", "uniform"] = "trailing"

    def __post_init__(self) -> None:
        for key, known in (("prediction", ("v", "eps", "x0")), ("schedule", _SCHEDULES), ("spacing", _SPACINGS)):
            if getattr(self, key) not in known:
                raise ValueError(f"{key} = {getattr(self, key)!r} is none of {', '.join(known)}")
        if self.min_snr is not None and not self.min_snr > 0:
            raise ValueError(f"min_snr = {self.min_snr}; it must be above 0, or None for the plain loss")
        if self.prediction == "eps" and self.zero_terminal_snr:
            raise ValueError("prediction = 'eps' is undefined at zero terminal SNR; use 'v' or 'x0'")

    def alpha(self, t: Tensor) -> Tensor:
        """1 - u(t)."""
        return 1 - self._loss_of_signal(t)

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - alpha^2) = sqrt(u (2 - u))."""
        u = self._loss_of_signal(t)
        return torch.sqrt(u * (2 - u))

    def time_at(self, log_snr: Tensor) -> Tensor:
        """The inverse of 2 log(alpha / sigma), in [0, 1]."""
        alpha, sigma_squared = torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr)
        loss, time = _SCHEDULES[self.schedule]
        last = loss(torch.ones_like(log_snr))
        u = sigma_squared / (1 + alpha)  # 1 - alpha without cancellation
        return time(torch.minimum(u * last if self.zero_terminal_snr else u, last)).clamp(0, 1)

    def sample_times(self, num_tokens: Tensor, generator: Generator | None = None) -> Tensor:
        """Training times (B,), uniform in (0, 1], float32; the size of a clip has no effect."""
        return (1 - torch.rand(len(num_tokens), generator=generator)).to(num_tokens.device)

    def times(self, num_steps: int, num_tokens: Tensor) -> Tensor:
        """The chosen spacing, the same for every size: (num_steps + 1, B) float64."""
        times = _SPACINGS[self.spacing](num_steps)
        return times.to(num_tokens.device)[:, None].expand(-1, len(num_tokens))

    def target_scales(self, t: Tensor) -> Scales:
        """Of the chosen prediction."""
        return prediction_scales(self.prediction, self.alpha(t), self.sigma(t))

    def input_scale(self, t: Tensor) -> Tensor:
        """1: x_t of whitened data has deviation 1."""
        return torch.ones_like(t)

    def weight(self, t: Tensor) -> Tensor:
        """1, or min(SNR, gamma) divided by the factor from the error of x0 to that of the prediction, all finite."""
        if self.min_snr is None:
            return torch.ones_like(t)
        alpha2, sigma2 = self.alpha(t).square(), self.sigma(t).square()
        match self.prediction:
            case "x0":
                return (alpha2 / sigma2).clamp(max=self.min_snr)
            case "eps":  # |error of x0|^2 = |error of eps|^2 / SNR
                return (self.min_snr * sigma2 / alpha2).clamp(max=1)
            case "v":  # |error of x0|^2 = sigma^2 |error of v|^2
                return torch.minimum(alpha2, self.min_snr * sigma2)

    def _loss_of_signal(self, t: Tensor) -> Tensor:
        loss = _SCHEDULES[self.schedule][0]
        # Divided by the same formula at 1, element by element, the end is exactly 1 in any dtype.
        return loss(t) / loss(torch.ones_like(t)) if self.zero_terminal_snr else loss(t)
