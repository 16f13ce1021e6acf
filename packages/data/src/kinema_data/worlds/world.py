"""The definition of the made world: what can be seen, how large, how it moves, and which combinations are held out.

Lengths are in pixels at scale 1 and are the same in every frame size: the camera stands at a fixed distance, so a
larger frame sees more of the scene. `World.scale` multiplies all of them.
"""

import json
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from kinema_data.worlds.look import Look

#: Colours in sRGB, 0 to 255. All pairs, and all colours and backgrounds, are at least 100 apart.
COLOURS = {
    "red": (215, 30, 35),
    "orange": (250, 125, 5),
    "yellow": (245, 225, 40),
    "green": (20, 160, 50),
    "cyan": (40, 215, 225),
    "blue": (35, 75, 225),
    "purple": (145, 30, 190),
    "pink": (250, 120, 195),
}
BACKGROUNDS = {"black": (8, 8, 8), "grey": (128, 128, 128), "white": (248, 248, 248)}


def _rectangle(x: float, y: float) -> list[list[float]]:
    return [[-x, -y], [x, -y], [x, y], [-x, y]]


#: Outlines at radius 1 around the centre of area, y downwards: a disc, or convex polygons whose union is the shape.
SHAPES: dict[str, dict[str, Any]] = {
    "circle": {"disc": 1.0},
    "square": {"polygons": [_rectangle(0.95, 0.95)]},
    "triangle": {"polygons": [[[0.0, -1.5], [1.2, 0.75], [-1.2, 0.75]]]},
    "cross": {"polygons": [_rectangle(1.2, 0.42), _rectangle(0.42, 1.2)]},
}
#: Radius in pixels.
SIZES = {"small": 4.8, "medium": 6.6, "large": 9.0}
#: Motions in a straight line, as steps right and down.
DIRECTIONS = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up-left": (-1, -1),
    "up-right": (1, -1),
    "down-left": (-1, 1),
    "down-right": (1, 1),
}
MOTIONS = (*DIRECTIONS, "bounce", "orbit", "grow", "shrink", "still")
#: The motion of an image.
NO_MOTION = "none"
SPLITS = ("train", "choose", "report")
#: How the object can be drawn: filled, as a line along its edge, with stripes of less cover, or in coarse blocks,
#: every other one of less cover.
STYLES = ("flat", "outline", "textured", "pixelated")
#: What can happen in a clip beside its motion; see `worlds.events`.
NO_EVENT = "none"
EVENTS = (NO_EVENT, "pair", "occluder", "leave", "swing", "cut", "change")


@dataclass(frozen=True)
class Laws:
    """Numbers of the world's physics, in pixels at scale 1 and seconds."""

    jitter: float = 0.03  # radii vary by this share around their class
    speed: tuple[float, float] = (18.0, 30.0)  # px/s
    step: tuple[float, float] = (5.0, 8.0)  # a straight motion covers at least this: below 9 frames, from 9 frames
    bounce: tuple[float, float] = (8.0, 11.0)  # path to the floor and back, at least
    turn: tuple[float, float] = (0.4, 0.6)  # when the floor is touched, as a share of the clip
    orbit: tuple[float, float] = (3.0, 7.5)  # radius of an orbit
    sweep: tuple[float, float] = (270.0, 360.0)  # degrees of an orbit in one clip
    growth: float = 4 / 3  # grow: radius from 1/growth to growth times the class's; shrink: back
    margin: float = 0.5  # the shape keeps this far from the frame's edge
    line: float = 1.6  # width of an outline
    stripe: float = 7.0  # from one stripe of a texture to the next
    gap: float = 0.5  # share of a pixel that the object covers between stripes, and in every other block
    block: int = 4  # side of the blocks of a pixelated object, which move with it


@dataclass(frozen=True)
class EventLaws:
    """Numbers of what happens beside the motion, in pixels at scale 1, frames, and shares of a clip."""

    frames: int = 17  # nothing happens in shorter clips
    bar: int = 5  # width of an occluder
    bar_colour: tuple[int, int, int] = (120, 75, 20)  # brown: at least 100 from all colours and backgrounds
    gap: float = 3.0  # between the two objects of a pair
    period: int = 8  # frames from one end of a swing to the same end, at least
    away: float = 0.25  # share of the clip in which an object that leaves is unseen
    zoom: float = 1.5  # radii of two shots
    head: int = 5  # frames of the first scene alone, before a change
    tail: int = 4  # frames of the second scene alone, after it


@dataclass(frozen=True)
class World:
    """A made world of one moving shape.

    Attributes:
        scale: whole number that multiplies every length.
        look: how it is painted.
        styles: of `STYLES`, how objects can be drawn. Where it is not only flat, it is one more attribute.
        events: of `EVENTS`, what can happen. Where it is not only "none", it is one more attribute.
    """

    scale: int = 1
    look: Look = field(default_factory=Look)
    styles: tuple[str, ...] = ("flat",)
    events: tuple[str, ...] = (NO_EVENT,)

    def __post_init__(self) -> None:
        if not self.styles or not set(self.styles) <= set(STYLES):
            raise ValueError(f"styles are {', '.join(self.styles) or 'none'}; give some of {', '.join(STYLES)}")
        if not self.events or not set(self.events) <= set(EVENTS):
            raise ValueError(f"events are {', '.join(self.events) or 'missing'}; give some of {', '.join(EVENTS)}")
        if self.scale < 1 or self.scale != int(self.scale):
            raise ValueError(f"scale must be a whole number from 1, got {self.scale}")

    @property
    def laws(self) -> Laws:
        """Speeds, distances and their bounds."""
        return Laws()

    @property
    def styled(self) -> bool:
        """Whether the style is an attribute."""
        return self.styles != ("flat",)

    @property
    def eventful(self) -> bool:
        """Whether the event is an attribute."""
        return set(self.events) != {NO_EVENT}

    def split_of(self, colour: str, shape: str, motion: str) -> str:
        """The split that owns a combination of colour, shape and motion."""
        return next(split for split, triples in _TRIPLES.items() if (colour, shape, motion) in triples)

    def triples(self, split: str) -> list[tuple[str, str, str]]:
        """All (colour, shape, motion) of a split."""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
        return _TRIPLES[split]

    def to_dict(self) -> dict[str, Any]:
        """All that a judge has to know; the content of `world.json`. Lengths are at scale 1."""
        return {
            "world": "shapes",
            "version": 1,
            "scale": self.scale,
            "look": vars(self.look),
            "styles": list(self.styles),
            "events": list(self.events),
            **({"event_laws": vars(EventLaws())} if self.eventful else {}),
            "colours": {name: list(rgb) for name, rgb in COLOURS.items()},
            "backgrounds": {name: list(rgb) for name, rgb in BACKGROUNDS.items()},
            "shapes": SHAPES,
            "sizes": SIZES,
            "directions": {name: list(step) for name, step in DIRECTIONS.items()},
            "motions": list(MOTIONS),
            "no_motion": NO_MOTION,
            "laws": vars(self.laws),
            "splits": {split: [list(triple) for triple in self.triples(split)] for split in SPLITS[1:]},
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1) + "\n"


def extents(shape: str) -> tuple[float, float, float, float]:
    """How far a shape of radius 1 reaches left, right, up and down of its centre."""
    outline = SHAPES[shape]
    if "disc" in outline:
        return (outline["disc"],) * 4
    xs, ys = zip(*(vertex for polygon in outline["polygons"] for vertex in polygon), strict=True)
    return -min(xs), max(xs), -min(ys), max(ys)


def _split_triples() -> dict[str, list[tuple[str, str, str]]]:
    """Held-out combinations are diagonals of the table of all.

    For every shape and motion exactly one colour is held out for choosing and one for reporting, and every
    colour-shape, colour-motion and shape-motion pair remains in train.
    """
    triples: dict[str, list[tuple[str, str, str]]] = {split: [] for split in SPLITS}
    for (c, colour), (s, shape), (m, motion) in product(*map(enumerate, (COLOURS, SHAPES, MOTIONS))):
        diagonal = (c + 2 * s + 3 * m) % len(COLOURS)
        triples[{0: "choose", 1: "report"}.get(diagonal, "train")].append((colour, shape, motion))
    return triples


_TRIPLES = _split_triples()
