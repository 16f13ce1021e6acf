"""Outlines of shapes as the world's definition gives them, drawn as anti-aliased templates.

An outline at radius 1 is {"disc": radius} or {"polygons": [convex polygon, ...]} whose union is the shape; vertices
(x, y) around the centre of area, clockwise on a screen with y downwards.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from kinema_metrics.world.blobs import FAINT

Outline = Mapping[str, Any]

#: No outline of radius 1 reaches farther from its centre.
REACH = 1.6
#: How the world draws a style: its name, and the lengths in pixels of the frame that it goes by.
FLAT: Mapping[str, Any] = {"name": "flat"}


def style_of(name: str, laws: Mapping[str, Any], scale: int) -> Mapping[str, Any]:
    """A style by the laws of a world's definition, at its scale."""
    if name == "flat":
        return FLAT
    lengths = {key: laws[key] * scale for key in ("line", "stripe", "block")}
    return {"name": name, "gap": laws["gap"], **lengths}


def template(outline: Outline, x: Tensor, y: Tensor, radius: Tensor, style: Mapping[str, Any] = FLAT) -> Tensor:
    """The share of each pixel that a shape covers, drawn in a style.

    Args:
        outline: of the shape.
        x: (..., W), pixel centres from the shape's centre.
        y: (..., H).
        radius: (...).
        style: of `style_of`.

    Returns:
        (..., H, W) in [0, 1].
    """
    if style["name"] == "pixelated":
        return _in_blocks(outline, x, y, radius, style["block"], style["gap"])
    x, y, radius = x[..., None, :], y[..., :, None], radius[..., None, None]
    distance = _signed(outline, x, y, radius)
    cover = (0.5 - distance).clamp(0, 1)
    if style["name"] == "outline":
        return cover - (0.5 - style["line"] - distance).clamp(0, 1)
    if style["name"] == "textured":
        turn = ((x + y) / 2**0.5) / style["stripe"]  # stripes are around whole numbers
        stripe = (0.5 + style["stripe"] * (0.25 - (turn - turn.round()).abs())).clamp(0, 1)
        return cover * (style["gap"] + (1 - style["gap"]) * stripe)
    return cover


def _in_blocks(outline: Outline, x: Tensor, y: Tensor, radius: Tensor, side: int, gap: float) -> Tensor:
    """The means of a shape's cover in blocks, one around its centre, spread over the pixels; odd ones have less."""
    count = math.ceil(REACH * radius.max().item() / side)
    number = torch.arange(-count, count + 1)
    left = side * (number - 0.5)
    grid = torch.linspace(0.5, side * len(left) - 0.5, side * len(left)) + left[0]
    cover = template(outline, grid.expand(*radius.shape, -1), grid.expand(*radius.shape, -1), radius)
    means = avg_pool2d(cover.flatten(0, -3)[:, None], side).view(*radius.shape, len(left), len(left))
    means = torch.where((number[:, None] + number) % 2 == 0, means, gap * means)
    means = torch.where(means < FAINT, 0.0, means)  # such blocks at the edge are not seen
    ends = ((at + 0.5)[..., None] - left for at in (x, y))  # of pixels, from where blocks begin
    wide, high = (end.clamp(0, side) - (end - 1).clamp(0, side) for end in ends)
    return high @ means @ wide.mT


def _signed(outline: Outline, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """The distance to the edge, negative inside."""
    if "disc" in outline:
        return (x.square() + y.square()).sqrt_() - outline["disc"] * radius
    parts = [_convex(polygon, x, y, radius) for polygon in outline["polygons"]]
    return parts[0] if len(parts) == 1 else torch.stack(parts).amin(0)


def unit_area(outline: Outline, resolution: int = 512) -> float:
    """The area at radius 1, by counting points of a fine grid."""
    line = (torch.arange(resolution) + 0.5) / resolution * 4 - 2
    fine = resolution / 4
    return template(outline, line * fine, line * fine, torch.tensor(fine)).sum().item() / fine**2


class Kind:
    """A shape drawn in a style: its template, and its radius by what is seen of it.

    Area tells the radius of all but lines, of which one drawn a little wider has as much more area; the distance of
    its pixels from the centre hardly changes.

    Args:
        outline: of the shape.
        style: of `style_of`.
        largest: radius in pixels up to which objects are told apart.
    """

    def __init__(self, outline: Outline, style: Mapping[str, Any], largest: float) -> None:
        self.outline, self.style = outline, style
        self.unit_area = unit_area(outline)
        self.lines = style["name"] == "outline"
        if style["name"] == "flat":
            return
        self.radii = torch.linspace(0.5, largest, 96)
        half = math.ceil(REACH * largest) + 3
        line = torch.arange(2 * half) + 0.5 - half
        cover = self.template(line, line, self.radii)
        seen = spread(cover, line, line) if self.lines else cover.sum((-2, -1))
        self.table = seen.cummax(0).values  # (96,), of each of the radii what `radius` goes by

    def template(self, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
        """See `template`."""
        return template(self.outline, x, y, radius, self.style)

    def radius(self, area: Tensor, square: Tensor) -> Tensor:
        """In pixels, by areas in pixels and mean squared distances as of `spread`, of one shape, whichever."""
        if self.style["name"] == "flat":
            return (area / self.unit_area).sqrt()
        seen = (square if self.lines else area).contiguous()
        at = torch.searchsorted(self.table, seen).clamp(1, len(self.table) - 1)
        low, high = self.table[at - 1], self.table[at]
        share = ((seen - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
        return torch.lerp(self.radii[at - 1], self.radii[at], share)


def spread(cover: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The mean squared distance from a centre of what is covered.

    Args:
        cover: (..., H, W).
        x: (..., W), pixel centres from that centre.
        y: (..., H).

    Returns:
        (...).
    """
    total = (cover.sum(-2) * x.square()).sum(-1) + (cover.sum(-1) * y.square()).sum(-1)
    return total / cover.sum((-2, -1)).clamp(min=1e-6)


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
