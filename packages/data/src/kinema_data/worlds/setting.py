"""What an event is drawn for, a plain scene with its world, and what is drawn."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from kinema_data.worlds.tracks import Point, Stage, draw_track, fits, has_room
from kinema_data.worlds.world import DIRECTIONS, SIZES, World

#: Positions and radii, in pixels of the frame.
Track = tuple[list[Point], list[float]]


@dataclass(frozen=True)
class Event:
    """What happens, as far as the track does not say it.

    Attributes:
        kind: of `EVENTS`.
        other: a pair's second object or a change's second scene, by attribute.
        place: where a pair's second object rests: x, y and radius in pixels.
        bar: an occluder's first column, and the one after its last.
        cut: the first frame of the second shot.
        shares: of a change's second scene, in each frame.
    """

    kind: str
    other: Mapping[str, str] = field(default_factory=dict)
    place: tuple[float, float, float] | None = None
    bar: tuple[int, int] | None = None
    cut: int | None = None
    shares: tuple[float, ...] | None = None

    @property
    def meta(self) -> dict[str, Any]:
        """Ground truth as plain values."""
        count = {"count": 2} if self.place is not None else {}
        other = {"other": dict(self.other)} if self.other else {}
        return {**count, **other, **({"cut": self.cut} if self.cut is not None else {})}


@dataclass(frozen=True)
class Setting:
    """The plain scene that an event is drawn for; `radius` is at scale 1, sizes are in pixels of the frame."""

    world: World
    split: str
    attributes: Mapping[str, str]
    radius: float
    frames: int
    frame_rate: float
    height: int
    width: int
    random: Random

    @property
    def direction(self) -> tuple[float, float]:
        """Of a straight motion, as a unit vector."""
        x, y = DIRECTIONS[self.attributes["motion"]]
        return x / math.hypot(x, y), y / math.hypot(x, y)

    @property
    def stage(self) -> Stage:
        """Where the centre may be, at scale 1; for motions that keep the radius."""
        scale, margin = self.world.scale, self.world.laws.margin
        return Stage.of(self.attributes["shape"], self.radius, self.height / scale, self.width / scale, margin)

    def draw_speed(self) -> float:
        """Drawn from the law, in pixels at scale 1 a frame."""
        return self.random.uniform(*self.world.laws.speed) / self.frame_rate

    def fits(self, shape: str, radius: float, motion: str) -> bool:
        """Whether such an object has room in the frame."""
        return has_room(self.world, shape, radius, motion, height=self.height, width=self.width)

    def fits_class(self, shape: str, size: str, motion: str) -> bool:
        """The same for every radius of a class."""
        return fits(self.world, shape, size, motion, frames=self.frames, height=self.height, width=self.width)

    def track(self, *, frames: int | None = None, zoom: float = 1.0) -> Track:
        """The object's motion once more, from another place."""
        kind = self.attributes
        return self._draw(kind["shape"], zoom * self.radius, kind["motion"], self.frames if frames is None else frames)

    def track_of(self, shape: str, size: str, motion: str) -> Track:
        """The track of another object."""
        radius = SIZES[size] * (1 + self.world.laws.jitter * self.random.uniform(-1, 1))
        return self._draw(shape, radius, motion, self.frames)

    def _draw(self, shape: str, radius: float, motion: str, frames: int) -> Track:
        where = {"frame_rate": self.frame_rate, "height": self.height, "width": self.width, "random": self.random}
        return draw_track(self.world, shape, radius, motion, frames=frames, **where)

    def along(self, start: Point, distances: Sequence[float]) -> Track:
        """The track at distances from a point along the direction, all at scale 1."""
        (x, y), (dx, dy), scale = start, self.direction, self.world.scale
        points = [(scale * (x + d * dx), scale * (y + d * dy)) for d in distances]
        return points, [scale * self.radius] * len(points)
