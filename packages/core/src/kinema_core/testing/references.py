"""What contracts measure with: random weights, differences, the smallest law and the exact denoiser."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from kinema_core.data import Conditioning, Ragged
from kinema_core.interfaces import Diffusion, Net
from kinema_core.noise import seeded_normal

TOLERANCE = 1e-5


def randomise(module: torch.nn.Module, seed: int = 0, scale: float = 0.1) -> None:
    """Give every parameter a random value, so that no zero-initialised layer hides a fault."""
    for index, parameter in enumerate(module.parameters()):
        parameter.data = parameter.data + scale * seeded_normal(tuple(parameter.shape), seed, index)


def largest_difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference; the shapes have to agree."""
    assert a.shape == b.shape, f"{tuple(a.shape)} against {tuple(b.shape)}"
    return (a - b).abs().max().item()


class LinearLaw(Diffusion):
    """alpha = 1 - t, sigma = t, with a network that predicts x0: the smallest complete law, for tests."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def time_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)

    def sample_times(self, num_tokens: Tensor, generator: Generator | None = None) -> Tensor:
        return torch.rand(len(num_tokens), generator=generator)

    def times(self, num_steps: int, num_tokens: Tensor) -> Tensor:
        return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)[:, None].expand(-1, len(num_tokens))

    def denoise(self, net: Net, x: Ragged, t: Tensor, cond: Conditioning) -> Tensor:
        return torch.where(t[:, None] > 0, net(x, t, cond), x.values)

    def loss(self, net: Net, x0: Ragged, noise: Tensor, t: Tensor, cond: Conditioning, free: Tensor) -> Tensor:
        t = torch.where(free, t, 0)
        x_t = x0.replace((1 - t)[:, None] * x0.values + t[:, None] * noise)
        # Selected before it is squared: the gradient of an infinite square is no number, even times 0.
        error = torch.where(free[:, None], net(x_t, t, cond) - x0.values, 0)
        return x0.mean_per_clip(error.square().mean(-1), free)


def gaussian_denoiser(law: Diffusion, mean: float, std: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The exact E[x0 | x_t] when every value of the data is N(mean, std^2)."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = law.alpha(t)[:, None], law.sigma(t)[:, None]
        return (mean * sigma**2 + std**2 * alpha * x) / (sigma**2 + std**2 * alpha**2)

    return denoise


class Contract:
    """What every contract has: the factory that its subclass sets."""

    @abstractmethod
    def make(self) -> Any:
        """A new component, the same weights each time."""
