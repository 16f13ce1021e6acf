"""The world's laws of motion: where the shape is and how large, frame by frame.

The motion's name, the first frame and the speed say all that follows, but for the size of an orbit: a bounce is always
off the floor, an orbit always clockwise from its top. So one can tell a right video from a wrong one, and a model can
learn to.

Positions are (x, y) in pixels from the frame's upper left corner; pixel i covers [i, i + 1].
"""

import math
from dataclasses import dataclass
from random import Random

from kinema_data.worlds.world import DIRECTIONS, SIZES, Laws, World, extents

Point = tuple[float, float]


@dataclass(frozen=True)
class Stage:
    """Where the centre may be so that the whole shape is seen, at scale 1.

    Attributes:
        low, high: corners of that region, (x, y).
    """

    low: Point
    high: Point

    @property
    def room(self) -> Point:
        """Its width and height."""
        return self.high[0] - self.low[0], self.high[1] - self.low[1]

    @classmethod
    def of(cls, shape: str, radius: float, height: float, width: float, margin: float) -> "Stage":
        """The stage of a shape whose radius is at most `radius` in a frame of `height` x `width`."""
        left, right, up, down = (reach * radius + margin for reach in extents(shape))
        return cls((left, up), (width - right, height - down))


def fits(world: World, shape: str, size: str, motion: str, *, frames: int, height: int, width: int) -> bool:
    """Whether every shape of this class has room for the motion, at its least extent, in such a frame."""
    radius = SIZES[size] * (1 + world.laws.jitter)
    return has_room(world, shape, radius, motion, height=height, width=width)


def has_room(world: World, shape: str, radius: float, motion: str, *, height: int, width: int) -> bool:
    """Whether a shape of this radius, at scale 1, has room for the motion at its least extent."""
    laws = world.laws
    radius *= _largest(motion, laws)
    stage = Stage.of(shape, radius, height / world.scale, width / world.scale, laws.margin)
    room_x, room_y = stage.room
    if min(room_x, room_y) < 0:
        return False
    if motion in DIRECTIONS:
        return _reach(stage, motion) >= laws.step[0]
    if motion == "bounce":
        return room_y >= laws.bounce[0] * laws.turn[1]
    if motion == "orbit":
        return min(room_x, room_y) >= 2 * laws.orbit[0]
    return True


def draw_track(
    world: World,
    shape: str,
    radius: float,
    motion: str,
    *,
    frames: int,
    frame_rate: float,
    height: int,
    width: int,
    random: Random,
) -> tuple[list[Point], list[float]]:
    """Positions and radii of one clip.

    Args:
        radius: at scale 1, the geometric mean over the clip.
        motion: one of the world's motions, or "none".
        height, width: of the frame in pixels, at the world's scale.
        random: all that is left to chance is drawn from it.

    Returns:
        `frames` positions and as many radii, in pixels of the frame.
    """
    laws = world.laws
    stage = Stage.of(
        shape, radius * _largest(motion, laws), height / world.scale, width / world.scale, laws.margin
    )  # fmt: skip
    if min(stage.room) < 0:
        raise ValueError(f"a {shape} of radius {radius:.1f} ({motion}) does not fit {height}x{width}")
    shares = [i / max(frames - 1, 1) for i in range(frames)]
    path = random.uniform(*laws.speed) * (frames - 1) / frame_rate
    points = _points(stage, motion, path, shares, laws, random)
    radii = [radius * math.exp(_sign(motion) * math.log(laws.growth) * (2 * share - 1)) for share in shares]
    scale = world.scale
    return [(scale * x, scale * y) for x, y in points], [scale * r for r in radii]


def _points(
    stage: Stage, motion: str, path: float, shares: list[float], laws: Laws, random: Random
) -> list[Point]:  # fmt: skip
    if motion in DIRECTIONS:
        return _line(stage, motion, path, shares, laws, random)
    if motion == "bounce":
        return _bounce(stage, path, shares, laws, random)
    if motion == "orbit":
        return _orbit(stage, path, shares, laws, random)
    return [_anywhere(stage, random)] * len(shares)


def _line(
    stage: Stage, motion: str, path: float, shares: list[float], laws: Laws, random: Random
) -> list[Point]:  # fmt: skip
    step = DIRECTIONS[motion]
    length = min(max(path, _least(laws.step, shares)), _reach(stage, motion)) / math.hypot(*step)
    move = tuple(length * s for s in step)
    start = [
        random.uniform(low - min(m, 0.0), high - max(m, 0.0))
        for low, high, m in zip(stage.low, stage.high, move, strict=True)
    ]
    return [(start[0] + share * move[0], start[1] + share * move[1]) for share in shares]


def _bounce(stage: Stage, path: float, shares: list[float], laws: Laws, random: Random) -> list[Point]:
    """Down to the floor and back up."""
    turn = random.uniform(*laws.turn)
    length = min(max(path, _least(laws.bounce, shares)), stage.room[1] / max(turn, 1 - turn))
    x = random.uniform(stage.low[0], stage.high[0])
    return [(x, stage.high[1] - length * abs(share - turn)) for share in shares]


def _orbit(stage: Stage, path: float, shares: list[float], laws: Laws, random: Random) -> list[Point]:
    """Clockwise from the top."""
    least, most = laws.orbit
    most = min(most, min(stage.room) / 2)
    radius = random.uniform(max(least, 0.75 * most), most)
    x, y = (random.uniform(low + radius, high - radius) for low, high in zip(stage.low, stage.high, strict=True))
    low, high = (math.radians(degrees) for degrees in laws.sweep)
    sweep = min(max(path / radius, low), high)
    # y points down: growing angles turn clockwise.
    angles = [-math.pi / 2 + share * sweep for share in shares]
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]


def _anywhere(stage: Stage, random: Random) -> Point:
    x, y = (random.uniform(low, high) for low, high in zip(stage.low, stage.high, strict=True))
    return x, y


def _reach(stage: Stage, motion: str) -> float:
    """The longest straight path in this direction."""
    step = DIRECTIONS[motion]
    return min(room for room, s in zip(stage.room, step, strict=True) if s) * math.hypot(*step)


def _least(bounds: tuple[float, float], shares: list[float]) -> float:
    return bounds[len(shares) >= 9]


def _largest(motion: str, laws: Laws) -> float:
    return laws.growth if _sign(motion) else 1.0


def _sign(motion: str) -> int:
    return {"grow": 1, "shrink": -1}.get(motion, 0)
