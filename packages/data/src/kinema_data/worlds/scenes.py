"""Scenes: everything that is to be seen in a clip, before it is rendered; training clips and evaluation prompts."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from kinema_data.worlds.captions import MOVING, OPTIONAL, draw_captions
from kinema_data.worlds.events import draw_event
from kinema_data.worlds.setting import Event, Setting
from kinema_data.worlds.tracks import Point, draw_track, fits
from kinema_data.worlds.world import BACKGROUNDS, MOTIONS, NO_EVENT, NO_MOTION, SHAPES, SIZES, World

#: Frames, height, width of training clips at scale 1, and their shares.
TRAIN_SIZES = {
    (9, 32, 32): 0.34,
    (17, 32, 32): 0.08,
    (9, 32, 48): 0.12,
    (9, 48, 32): 0.12,
    (5, 32, 32): 0.06,
    (5, 48, 48): 0.06,
    (1, 32, 32): 0.12,
    (1, 48, 48): 0.05,
    (1, 32, 48): 0.025,
    (1, 48, 32): 0.025,
}
#: The same where events can happen, which need longer clips.
EVENT_SIZES = {(17, 32, 32): 0.3, (33, 32, 32): 0.3, (61, 32, 32): 0.15}
EVENT_SIZES |= {size: EVENT_SIZES.get(size, 0.0) + 0.25 * share for size, share in TRAIN_SIZES.items()}
FRAME_RATES = (8.0, 12.0, 16.0)
#: How often a training caption leaves out size, motion or background.
DROP = 0.12


@dataclass(frozen=True)
class Scene:
    """One clip of the made world, not yet rendered.

    Attributes:
        id: unique within its data set.
        split: train, choose or report.
        attributes: colour, shape, size, motion ("none" for an image), background, and style and event where the
            world has styles and events.
        frames, height, width, frame_rate: the clip's size in pixels and frames per second.
        positions: (x, y) of the centre of area in each frame, in pixels; pixel i covers [i, i + 1].
        radii: in each frame, in pixels.
        captions: "short" and "long".
        stated: the attributes that the captions name.
        world: whose look it has.
        seed: of its texture and noise.
        event: what happens beside the motion, if anything does.
    """

    id: str
    split: str
    attributes: Mapping[str, str]
    frames: int
    height: int
    width: int
    frame_rate: float
    positions: Sequence[Point]
    radii: Sequence[float]
    captions: Mapping[str, str]
    stated: Sequence[str]
    world: World
    seed: int
    event: Event | None = None

    @property
    def caption(self) -> str:
        """The short caption."""
        return self.captions["short"]

    @property
    def meta(self) -> dict[str, Any]:
        """Ground truth as plain values, for manifests and judges."""
        return {
            **self.attributes,
            "count": 1,
            "positions": [[round(x, 3), round(y, 3)] for x, y in self.positions],
            "radii": [round(r, 3) for r in self.radii],
            "stated": list(self.stated),
            **({} if self.event is None else self.event.meta),
        }


def draw_scene(world: World, split: str, seed: int, index: int) -> Scene:
    """Training-like scene number `index`: a function of the arguments alone."""
    random = _random("clip", seed, split, index)
    frames, height, width = _weighted(EVENT_SIZES if world.eventful else TRAIN_SIZES, random)
    colour, shape, motion = _choice(world.triples(split), random)
    size = _choice(list(SIZES), random)
    stated = [name for name in _optional(world) if random.random() >= DROP]
    return _scene(
        world,
        f"{split}-{index:06d}",
        split,
        (colour, shape, size, motion if frames > 1 else NO_MOTION),
        (frames, height * world.scale, width * world.scale),
        _choice(FRAME_RATES, random),
        stated,
        random,
    )


def prompts(
    world: World,
    split: str,
    num: int,
    seed: int,
    *,
    sizes: Sequence[tuple[int, int, int]] = ((9, 32, 32),),
    frame_rates: Sequence[float] = FRAME_RATES,
) -> list[Scene]:
    """Evaluation prompts over a split's combinations, with captions that name every attribute.

    Frame sizes are taken in turn; motions and sizes are uniform over what has room in the frame, colours and shapes
    uniform over the split's combinations with that motion.

    Args:
        sizes: (frames, height, width) at the world's scale; any, trained or not.
        frame_rates: one is drawn for each prompt.
    """
    triples = world.triples(split)
    queues = {clip: _Queue(_cells(world, clip), _random("order", seed, split, *clip)) for clip in sizes}
    scenes = []
    for index in range(num):
        frames, height, width = clip = sizes[index % len(sizes)]
        random = _random("prompt", seed, split, index, *clip)
        motion, size = queues[clip].next()
        # A cell of the queue has room for every shape, so each combination with its motion will do.
        colour, shape = _choice([(colour, shape) for colour, shape, m in triples if m == motion], random)
        scenes.append(
            _scene(
                world,
                f"{split}-{frames}x{height}x{width}-{index:05d}",
                split,
                (colour, shape, size, motion if frames > 1 else NO_MOTION),
                clip,
                _choice(frame_rates, random),
                _optional(world),
                random,
            )
        )
    return scenes


class _Queue:
    """All cells in random order, again and again: uniform at every length."""

    def __init__(self, cells: list[tuple[str, str]], random: Random) -> None:
        self.cells, self.random, self.left = cells, random, []

    def next(self) -> tuple[str, str]:
        if not self.left:
            self.left = sorted(self.cells, key=lambda _: self.random.random())
        return self.left.pop()


def _cells(world: World, clip: tuple[int, int, int]) -> list[tuple[str, str]]:
    """(motion, size) that every shape has room for in such a clip."""
    frames, height, width = clip
    cells = [
        (motion, size)
        for motion in MOTIONS
        for size in SIZES
        if all(
            fits(world, shape, size, motion if frames > 1 else NO_MOTION, frames=frames, height=height, width=width)
            for shape in SHAPES
        )
    ]
    if not cells:
        raise ValueError(f"no shape of scale {world.scale} fits {height}x{width}; the least is {24 * world.scale} px")
    return cells


def _scene(
    world: World,
    name: str,
    split: str,
    kind: tuple[str, str, str, str],
    clip: tuple[int, int, int],
    frame_rate: float,
    stated: Sequence[str],
    random: Random,
) -> Scene:
    colour, shape, size, motion = kind
    frames, height, width = clip
    background = _choice(list(BACKGROUNDS), random)
    attributes = {"colour": colour, "shape": shape, "size": size, "motion": motion, "background": background}
    if world.styled:
        attributes["style"] = _choice(world.styles, random)
    radius = SIZES[size] * (1 + world.laws.jitter * random.uniform(-1, 1))
    track = draw_track(
        world, shape, radius, motion, frames=frames, frame_rate=frame_rate, height=height, width=width, random=random
    )
    stated, event = [s for s in stated if s != "motion" or motion != NO_MOTION], None
    if world.eventful:
        event, track = draw_event(
            Setting(world, split, attributes, radius, frames, frame_rate, height, width, random), track
        )
        attributes["event"] = event.kind if event else NO_EVENT
        # The words of some events tell the motion too.
        stated = list(dict.fromkeys([*stated, *(["motion"] if attributes["event"] in MOVING else []), "event"]))
    positions, radii = track
    place = _place(positions[0], height, width)
    captions = draw_captions(attributes, stated, place, random, event.other if event else {})
    named = ["colour", "shape", *stated]
    clip_of = (attributes, frames, height, width, frame_rate, positions, radii, captions, named)
    return Scene(name, split, *clip_of, world=world, seed=random.getrandbits(63), event=event)


def _optional(world: World) -> tuple[str, ...]:
    """The attributes that a caption may leave out."""
    return OPTIONAL if world.styled else tuple(name for name in OPTIONAL if name != "style")


def _place(position: Point, height: int, width: int) -> str:
    column = ("left", "", "right")[min(int(3 * position[0] / width), 2)]
    row = ("upper", "", "lower")[min(int(3 * position[1] / height), 2)]
    if row and column:
        return f"at the {row} {column}"
    if row:
        return f"at the {'top' if row == 'upper' else 'bottom'}"
    return f"at the {column}" if column else "in the middle"


def _random(*key: int | str) -> Random:
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return Random(int.from_bytes(digest, "big"))


def _choice(options: Sequence[Any], random: Random) -> Any:
    return options[int(random.random() * len(options))]


def _weighted(shares: Mapping[Any, float], random: Random) -> Any:
    level = random.random() * sum(shares.values())
    for option, share in shares.items():
        level -= share
        if level < 0:
            return option
    return option
