"""Outlines of shapes as the world's definition gives them, drawn as anti-aliased templates.

An outline at radius 1 is {"disc": radius} or {"polygons": [convex polygon, ...]} whose union is the shape; vertices
(x, y) around the centre of area, clockwise on a screen with y downwards.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Outline = Mapping[str, Any]


def template(outline: Outline, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """The share of each pixel that a shape covers.

    Args:
        x: (..., W), pixel centres from the shape's centre.
        y: (..., H).
        radius: (...).

    Returns:
        (..., H, W) in [0, 1].
    """
    x, y, radius = x[..., None, :], y[..., :, None], radius[..., None, None]
    if "disc" in outline:
        distance = (x.square() + y.square()).sqrt_().sub_(outline["disc"] * radius)
    else:
        parts = [_convex(polygon, x, y, radius) for polygon in outline["polygons"]]
        distance = parts[0] if len(parts) == 1 else torch.stack(parts).amin(0)
    return distance.neg_().add_(0.5).clamp_(0, 1)


def unit_area(outline: Outline, resolution: int = 512) -> float:
    """The area at radius 1, by counting points of a fine grid."""
    line = (torch.arange(resolution) + 0.5) / resolution * 4 - 2
    fine = resolution / 4
    return template(outline, line * fine, line * fine, torch.tensor(fine)).sum().item() / fine**2


def _convex(polygon: list[list[float]], x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    edges = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    distance: Tensor | None = None
    for (x0, y0), (x1, y1) in edges:
        length = math.hypot(x1 - x0, y1 - y0)
        nx, ny = (y1 - y0) / length, (x0 - x1) / length
        edge = (nx * x - (nx * x0 + ny * y0) * radius) + ny * y
        distance = edge if distance is None else torch.maximum(distance, edge, out=distance)
    assert distance is not None
    return distance
