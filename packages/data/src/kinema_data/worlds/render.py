"""Scenes to pixels: anti-aliased drawing from signed distances, vectorised over all clips of one size.

Letters: K clips of one shape and size, T H W frames, rows, columns.
"""

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from kinema_core import Clip
from torch import Tensor

from kinema_data.worlds.scenes import Scene
from kinema_data.worlds.tracks import Point
from kinema_data.worlds.world import BACKGROUNDS, COLOURS, SHAPES, EventLaws, World, extents


def render(scenes: Sequence[Scene]) -> list[Clip]:
    """The clips of some scenes, with their ground truth in `meta`."""
    return [
        Clip(
            scene.id,
            frames.permute(3, 0, 1, 2).to(torch.float32) / 127.5 - 1,  # (3, T, H, W)
            scene.frame_rate,
            dict(scene.captions),
            scene.meta,
        )
        for scene, frames in zip(scenes, render_frames(scenes), strict=True)
    ]


def render_frames(scenes: Sequence[Scene]) -> list[Tensor]:
    """The pixels of some scenes, one uint8 (T, H, W, 3) each."""
    groups: dict[tuple[str, str, int, int, int], list[int]] = defaultdict(list)
    for i, scene in enumerate(scenes):
        style = scene.attributes.get("style", "flat")
        groups[scene.attributes["shape"], style, scene.frames, scene.height, scene.width].append(i)
    videos: list[Tensor] = [torch.empty(0)] * len(scenes)
    for (shape, style, _, height, width), members in groups.items():
        group = [scenes[i] for i in members]
        for i, video in zip(members, _render_group(group, shape, style, height, width), strict=True):
            videos[i] = video
    return videos


def _render_group(scenes: Sequence[Scene], shape: str, style: str, height: int, width: int) -> Tensor:
    """uint8 (K, T, H, W, 3), scenes of one world."""
    centre = torch.tensor([scene.positions for scene in scenes])  # (K, T, 2)
    radius = torch.tensor([scene.radii for scene in scenes])  # (K, T)
    cover = styled_coverage(style, scenes[0].world, shape, centre, radius, height, width)  # (K, T, H, W)
    colour, ground = (
        torch.tensor([table[scene.attributes[name]] for scene in scenes], dtype=torch.float32)[:, None, None, None]
        for table, name in ((COLOURS, "colour"), (BACKGROUNDS, "background"))
    )
    frames = torch.addcmul(ground, cover[..., None], colour - ground)  # (K, T, H, W, 3)
    for k, scene in enumerate(scenes):
        if scene.event is not None:
            frames[k] = _paint_event(frames[k], scene)
        if not scene.world.look.flat:
            frames[k] = scene.world.look.paint(
                frames[k], cover[k], centre[k], frame_rate=scene.frame_rate, scale=scene.world.scale, seed=scene.seed
            )
    return frames.round_().clamp_(0, 255).to(torch.uint8)


def _paint_event(frames: Tensor, scene: Scene) -> Tensor:
    """What an event adds to (T, H, W, 3) in levels of the scene alone."""
    event = scene.event
    assert event is not None
    if event.bar is not None:
        frames[:, :, slice(*event.bar)] = torch.tensor(EventLaws().bar_colour, dtype=torch.float32)
    if event.place is not None:
        x, y, radius = event.place
        return _paint_other(scene, frames, [(x, y)], [radius])
    if event.shares is not None:
        ground = torch.tensor(BACKGROUNDS[event.other["background"]], dtype=torch.float32).expand_as(frames)
        second = _paint_other(scene, ground, scene.positions, scene.radii)
        return frames.lerp(second, torch.tensor(event.shares)[:, None, None, None])
    return frames


def _paint_other(scene: Scene, frames: Tensor, positions: Sequence[Point], radii: Sequence[float]) -> Tensor:
    """An event's other object over (T, H, W, 3), at one place or at one a frame."""
    assert scene.event is not None
    other, style = scene.event.other, scene.attributes.get("style", "flat")
    place = torch.tensor(positions), torch.tensor(radii)
    cover = styled_coverage(style, scene.world, other["shape"], *place, scene.height, scene.width)
    return frames.lerp(torch.tensor(COLOURS[other["colour"]], dtype=torch.float32), cover[..., None])


def coverage(shape: str, centre: Tensor, radius: Tensor, height: int, width: int) -> Tensor:
    """The share of each pixel that a shape covers, from its signed distance at the pixel's middle.

    Args:
        centre: (..., 2), x and y.
        radius: (...).

    Returns:
        (..., H, W) in [0, 1].
    """
    x, y = _offsets(centre, height, width)
    return (0.5 - _distance(shape, x, y, radius[..., None])).clamp_(0, 1)


def styled_coverage(
    style: str, world: World, shape: str, centre: Tensor, radius: Tensor, height: int, width: int
) -> Tensor:
    """`coverage` of an object drawn in a style of `STYLES`."""
    laws, scale = world.laws, world.scale
    cover = coverage(shape, centre, radius, height, width)
    x, y = _offsets(centre, height, width)
    if style == "outline":
        inner = _distance(shape, x, y, radius[..., None]) + laws.line * scale
        return cover - (0.5 - inner).clamp_(0, 1)
    if style == "textured":
        period = laws.stripe * scale
        across = (x[..., None, :] + y[..., :, None]) / 2**0.5  # fixed to the object
        from_stripe = (torch.remainder(across + period / 2, period) - period / 2).abs()
        return cover * torch.lerp(
            torch.tensor(laws.gap), torch.tensor(1.0), (0.5 + period / 4 - from_stripe).clamp(0, 1)
        )
    if style == "pixelated":
        return _in_blocks(shape, radius, x, y, laws.block * scale, laws.gap)
    return cover


def _in_blocks(shape: str, radius: Tensor, x: Tensor, y: Tensor, side: int, gap: float) -> Tensor:
    """The mean `coverage` of blocks of `side` pixels, every other one times `gap`, as a dithered sprite has them.

    They move with the object, whose centre is in the middle of a full one.

    Args:
        radius: (...).
        x, y: the pixels' middles from the centre, (..., W) and (..., H).
    """
    reach = math.ceil(radius.max().item() * max(extents(shape)) / side)
    number = torch.arange(-reach, reach + 1)
    starts = side * (number - 1 / 2)
    line = (starts[0] + torch.arange(side * len(starts)) + 0.5).expand(*radius.shape, -1)
    cover = (0.5 - _distance(shape, line, line, radius[..., None])).clamp_(0, 1)
    blocks = cover.unflatten(-2, (-1, side)).unflatten(-1, (-1, side)).mean((-3, -1))  # (..., rows, columns)
    blocks[..., (number[:, None] + number) % 2 == 1] *= gap
    # How much of a pixel is in a row or column of blocks.
    columns, rows = (((side + 1) / 2 - (at[..., None] - starts - side / 2).abs()).clamp(0, 1) for at in (x, y))
    return (rows @ blocks @ columns.mT).clamp_(max=1)  # rounding


def _offsets(centre: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The pixels' middles from centres (..., 2): x (..., W) and y (..., H)."""
    return torch.arange(width) + 0.5 - centre[..., :1], torch.arange(height) + 0.5 - centre[..., 1:]


def _distance(shape: str, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance to the outline, negative inside: (..., H, W) for x (..., W), y (..., H), radius (..., 1)."""
    outline = SHAPES[shape]
    if "disc" in outline:
        squared = x.square()[..., None, :] + y.square()[..., :, None]
        return squared.sqrt_().sub_(outline["disc"] * radius[..., None])
    parts = [_convex(polygon, x, y, radius) for polygon in outline["polygons"]]
    return torch.stack(parts).amin(0) if len(parts) > 1 else parts[0]


def _convex(polygon: list[list[float]], x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """The largest distance to any edge's line: exact inside, and corners stay sharp."""
    inside: Tensor | None = None
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        length = math.hypot(x1 - x0, y1 - y0)
        nx, ny = (y1 - y0) / length, (x0 - x1) / length  # outwards: vertices run clockwise on a screen
        offset = nx * x0 + ny * y0
        edge = (nx * x - offset * radius)[..., None, :] + (ny * y)[..., :, None]
        inside = edge if inside is None else torch.maximum(inside, edge, out=inside)
    assert inside is not None
    return inside
