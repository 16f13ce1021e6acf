"""Sampling times as pure functions of the number of steps: float64, falling, ending at exactly 0."""

import torch
from torch import Tensor


def trailing(num_steps: int) -> Tensor:
    """(num_steps + 1,) equal steps from 1 to 0: the "trailing" spacing of Lin et al. 2023 in continuous time."""
    _check(num_steps)
    return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)


def uniform(num_steps: int, last: float = 1e-3) -> Tensor:
    """(num_steps + 1,): `num_steps` times in equal steps from 1 to `last`, then 0.

    The "linspace" spacing of DDPM: `last` is the first of its 1000 discrete times.
    """
    _check(num_steps)
    return _then_zero(torch.linspace(1, last, num_steps, dtype=torch.float64))


def karras(num_steps: int, sigma_max: float = 80.0, sigma_min: float = 0.002, rho: float = 7.0) -> Tensor:
    """(num_steps + 1,) noise levels, equal steps in sigma^(1/rho), then 0 (Karras et al. 2022, eq. 5)."""
    _check(num_steps)
    roots = torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), num_steps, dtype=torch.float64)
    return _then_zero(roots**rho)


def shifted(t: Tensor, shift: Tensor | float) -> Tensor:
    """s t / (1 + (s - 1) t): multiplies sigma / alpha of the flow law by s (Esser et al. 2024, eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def _then_zero(times: Tensor) -> Tensor:
    return torch.cat([times, times.new_zeros(1)])


def _check(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"a schedule of {num_steps} steps; it takes at least 1")
