"""Which law of motion a track obeys: straight, bounce, orbit, growth or rest, by least squares.

A bounce goes down and comes back up, an orbit turns clockwise; others have no name.

Letters: B clips, T frames. Lengths in pixels at scale 1, time runs from 0 to 1 over a clip.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def read_motion(centre: Tensor, log_radius: Tensor, seen: Tensor, world: Mapping[str, Any]) -> list[str | None]:
    """The motion of each track, None where no law explains it.

    Args:
        centre: (B, T, 2).
        log_radius: (B, T).
        seen: (B, T) bool: frames to go by.
        world: `directions` and `laws` of the world's definition.
    """
    laws, directions = world["laws"], world["directions"]
    weight = seen.double()
    time = torch.linspace(0, 1, centre.shape[1], dtype=torch.float64).expand_as(weight)
    track, size = centre.double(), log_radius.double()[..., None]
    growth = _fit(time, size, weight)[0][:, 0]  # (B,), change of log radius over the clip
    slope, straight_error = _fit(time, track, weight)
    bounces = [_fit((time - turn).abs(), track, weight) for turn in _turns(laws)]
    bounce_error, best = torch.stack([error for _, error in bounces]).min(0)
    away = torch.stack([factor for factor, _ in bounces])[best, torch.arange(len(best))]  # (B, 2), from the turn
    rest_error = _deviation(track, weight)
    winding, stray = _circle(track, weight)
    flatness = _flatness(track, weight)
    names = list(directions)
    unit = torch.nn.functional.normalize(torch.tensor([directions[name] for name in names], dtype=torch.float64), dim=1)
    heading = (slope @ unit.T).argmax(1)
    full_growth = 2 * torch.tensor(laws["growth"]).log().item()
    # The least motion of a straight line, as deviation from its mean: below half of that is rest.
    still = 0.5 * laws["step"][0] / 12**0.5
    least_winding = 2 / 3 * laws["sweep"][0]

    def name(i: int) -> str | None:
        share_grown, share_moved = abs(growth[i]) / full_growth, rest_error[i] / (2 * still)
        if share_grown >= 0.5 and share_grown >= share_moved:
            return "grow" if growth[i] > 0 else "shrink"
        if rest_error[i] < still:
            return "still"
        if flatness[i] > 0.35 and winding[i] > least_winding and stray[i] < 0.3:
            return "orbit"
        if min(bounce_error[i], straight_error[i]) > 0.5 * rest_error[i]:
            return None
        if straight_error[i] <= bounce_error[i]:
            return names[int(heading[i])]
        return "bounce" if -away[i, 1] > abs(away[i, 0]) else None

    return [name(i) for i in range(len(centre))]


def read_swing(
    centre: Tensor, log_radius: Tensor, seen: Tensor, world: Mapping[str, Any], *, least_period: float
) -> str | None:
    """The motion of one track (1, T, ...) if it swings harmonically along a line, else None; see `read_motion`.

    Args:
        least_period: in frames; somewhat shorter ones are found too.
    """
    weight, track, size = seen.double(), centre.double(), log_radius.double()[..., None]
    frames = weight.shape[1]
    time = torch.linspace(0, 1, frames, dtype=torch.float64).expand_as(weight)
    rest = _deviation(track, weight)
    law = 0.5 * world["laws"]["step"][0] / 12**0.5
    if rest < law or _deviation(size, weight) > 0.1 or _flatness(track, weight) > 0.25:
        return None
    fits = [_fit(time, track, weight), *(_fit((time - turn).abs(), track, weight) for turn in _turns(world["laws"]))]
    periods = torch.linspace(1 / (1.25 * (frames - 1)), 1 / (0.8 * least_period), 64, dtype=torch.float64).reciprocal()
    angle = 2 * torch.pi * torch.arange(frames) / periods[:, None]  # (P, T)
    basis = torch.stack([torch.ones_like(angle), angle.cos(), angle.sin()], -1) * weight[0, :, None]
    points = (track * weight[..., None]).expand(len(periods), -1, -1)
    left = basis @ torch.linalg.lstsq(basis, points).solution - points
    error = (left.square().sum((1, 2)) / weight.sum()).sqrt().min()
    if error > 0.35 * rest or error > 0.6 * torch.stack([other for _, other in fits]).min():
        return None
    deviation = (track - (weight[..., None] * track).sum(1) / weight.sum())[0] * weight[0, :, None]
    axis = torch.linalg.eigh(deviation.T @ deviation).eigenvectors[:, 1]
    # A swing has no sign: of two opposite directions that to the right names it, or else down.
    signed = {name: step for name, step in world["directions"].items() if (step[0], step[1]) > (0, 0)}
    unit = torch.nn.functional.normalize(torch.tensor(list(signed.values()), dtype=torch.float64), dim=1)
    return list(signed)[int((unit @ axis).abs().argmax())]


def _turns(laws: Mapping[str, Any]) -> list[float]:
    low, high = laws["turn"]
    return torch.linspace(low - 0.05, high + 0.05, 13).tolist()


def _fit(basis: Tensor, values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted regression of values (B, T, D) on a constant and a basis (B, T).

    Returns:
        The basis's factor (B, D), and the root mean square of what is left (B,).
    """
    share = weight / weight.sum(1, keepdim=True).clamp(min=1)
    centred = basis - (share * basis).sum(1, keepdim=True)
    deviation = values - (share[..., None] * values).sum(1, keepdim=True)
    variance = (share * centred.square()).sum(1).clamp(min=1e-9)
    factor = ((share * centred)[..., None] * deviation).sum(1) / variance[:, None]
    left = deviation - centred[..., None] * factor[:, None]
    return factor, (share[..., None] * left.square()).sum((1, 2)).sqrt()


def _deviation(track: Tensor, weight: Tensor) -> Tensor:
    """Root mean square distance from the mean position: (B,)."""
    return _fit(torch.zeros_like(weight), track, weight)[1]


def _flatness(track: Tensor, weight: Tensor) -> Tensor:
    """Width over length of the track, by its principal axes: 0 on a line, 1 on a full circle. (B,)"""
    share = weight / weight.sum(1, keepdim=True).clamp(min=1)
    deviation = track - (share[..., None] * track).sum(1, keepdim=True)
    covariance = torch.einsum("bt,bti,btj->bij", share, deviation, deviation)
    low, high = torch.linalg.eigvalsh(covariance).clamp(min=0).unbind(1)
    return (low / high.clamp(min=1e-9)).sqrt()


def _circle(track: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The circle fitted to the track (I. Kasa 1976).

    Returns:
        Degrees that the track turns clockwise around its centre (B,), and how far the track strays from it, as root
        mean square share of its radius (B,).
    """
    share = weight / weight.sum(1, keepdim=True).clamp(min=1)
    points = track - (share[..., None] * track).sum(1, keepdim=True)
    rows = torch.cat([2 * points, torch.ones_like(points[..., :1])], -1) * weight[..., None]
    target = points.square().sum(-1, keepdim=True) * weight[..., None]
    # A small ridge: points on a line have no circle.
    normal = rows.mT @ rows + 1e-6 * torch.eye(3, dtype=rows.dtype)
    centre = torch.linalg.solve(normal, rows.mT @ target)[:, :2, 0]
    spoke = points - centre[:, None]
    length = spoke.norm(dim=-1)
    radius = (share * length).sum(1)
    stray = (share * (length - radius[:, None]).square()).sum(1).sqrt() / radius.clamp(min=1e-6)
    angle = torch.atan2(spoke[..., 1], spoke[..., 0])
    step = torch.remainder(angle.diff(dim=1) + torch.pi, 2 * torch.pi) - torch.pi
    both = weight[:, 1:] * weight[:, :-1]
    return torch.rad2deg((step * both).sum(1)), stray
