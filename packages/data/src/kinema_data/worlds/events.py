"""What may happen in a clip beside its motion, drawn as changes of a plain scene's track and as things to paint on it.

pair: a second object rests beside the first. occluder: the object passes behind a bar. leave: it moves out of the frame
and comes back. swing: it moves to and fro. cut: the shot changes. change: the scene turns into another one.

Where an event has no room, nothing happens. A pair needs an object that does not rest, and a change two that keep their
size: else a clip would not tell which object is the first, or how large one is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from random import Random
from typing import Any

from kinema_data.worlds.setting import Event, Setting, Track
from kinema_data.worlds.tracks import Point
from kinema_data.worlds.world import (
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    MOTIONS,
    NO_EVENT,
    SHAPES,
    SIZES,
    EventLaws,
    extents,
)

#: The motions that a swing can have: it has no sign.
SWINGS = ("right", "down", "down-right", "up-right")
#: The motions of scenes that change.
_SAME_SIZE = tuple(motion for motion in MOTIONS if motion not in ("grow", "shrink"))
#: How often to look for room for a pair.
_TRIES = 40


def draw_event(setting: Setting, track: Track) -> tuple[Event | None, Track]:
    """One of the world's events, None where nothing happens, and the scene's track with it.

    Args:
        setting: the scene.
        track: of the scene, if nothing happens.
    """
    kind = setting.world.events[int(setting.random.random() * len(setting.world.events))]
    if kind == NO_EVENT or setting.frames < EventLaws().frames:
        return None, track
    return _DRAW[kind](setting, track) or (None, track)


def _swing(setting: Setting, _: Track) -> tuple[Event, Track] | None:
    """Harmonic, at its fastest as fast as a straight motion where one period is short enough for the clip."""
    if setting.attributes["motion"] not in SWINGS:
        return None
    random, stage, speed, last = setting.random, setting.stage, setting.draw_speed(), setting.frames - 1
    reach = min(room / abs(d) for room, d in zip(stage.room, setting.direction, strict=True) if d) / 2
    least = min(setting.world.laws.step[1] / 2, reach)
    swing = max(least, min(reach * random.uniform(0.6, 1.0), speed * last / (2 * math.pi)))
    period = min(max(2 * math.pi * swing / speed, EventLaws().period), last)
    phase = random.uniform(0, 2 * math.pi)
    away = (swing * abs(d) for d in setting.direction)
    x, y = (random.uniform(low + a, high - a) for low, high, a in zip(stage.low, stage.high, away, strict=True))
    distances = [swing * math.sin(2 * math.pi * t / period + phase) for t in range(setting.frames)]
    return Event("swing"), setting.along((x, y), distances)


def _leave(setting: Setting, track: Track) -> tuple[Event, Track] | None:
    """From where the straight motion starts out of the frame and, with a smooth turn, back."""
    if setting.attributes["motion"] not in DIRECTIONS:
        return None
    laws, scale = EventLaws(), setting.world.scale
    x, y = track[0][0][0] / scale, track[0][0][1] / scale
    margin = setting.world.laws.margin
    left, right, up, down = (reach * setting.radius + margin for reach in extents(setting.attributes["shape"]))
    ways = [(setting.width / scale - x + left, x + right), (setting.height / scale - y + up, y + down)]
    # Unseen once the whole shape is beyond either edge that it moves towards.
    out = min(way[d < 0] / abs(d) for way, d in zip(ways, setting.direction, strict=True) if d)
    length = out / math.sin(math.pi * (1 - laws.away) / 2) ** 2
    distances = [length * math.sin(math.pi * t / (setting.frames - 1)) ** 2 for t in range(setting.frames)]
    return Event("leave"), setting.along((x, y), distances)


def _occluder(setting: Setting, _: Track) -> tuple[Event, Track] | None:
    """A bar that the object passes from one side to the other."""
    motion, scale, random = setting.attributes["motion"], setting.world.scale, setting.random
    if motion not in DIRECTIONS or not DIRECTIONS[motion][0]:
        return None
    bar, stage = EventLaws().bar, setting.stage
    left, right, *_ = (reach * setting.radius for reach in extents(setting.attributes["shape"]))
    # The bar is at whole pixels: one more than the least between the places before and after it.
    least, most = left + right + bar + 1, min(room for room, d in zip(stage.room, setting.direction, strict=True) if d)
    if least > most:
        return None
    step = min(max(setting.draw_speed() * (setting.frames - 1) * abs(setting.direction[0]), least), most)
    moves = [step * DIRECTIONS[motion][axis] for axis in (0, 1)]
    x, y = (
        random.uniform(low - min(move, 0), high - max(move, 0))
        for low, high, move in zip(stage.low, stage.high, moves, strict=True)
    )
    first, last = sorted((x, x + moves[0]))
    place = int(random.uniform(math.ceil((first + right) * scale), math.floor((last - left - bar) * scale) + 1))
    length = step / abs(setting.direction[0])
    distances = [length * t / (setting.frames - 1) for t in range(setting.frames)]
    return Event("occluder", bar=(place, place + bar * scale)), setting.along((x, y), distances)


def _pair(setting: Setting, _: Track) -> tuple[Event, Track] | None:
    """Another object, small or medium, at rest where the first does not come."""
    world, random, kind = setting.world, setting.random, setting.attributes
    if kind["motion"] == "still":
        return None
    colour, shape = (_other(table, kind[name], random) for table, name in ((COLOURS, "colour"), (SHAPES, "shape")))
    sizes = [size for size in ("small", "medium") if setting.fits_class(shape, size, "still")]
    for _ in range(_TRIES if sizes else 0):
        (place, *_), (radius, *_) = setting.track_of(shape, _choice(sizes, random), "still")
        track = setting.track()
        second = _box(shape, place, radius)
        boxes = (_box(kind["shape"], *at) for at in zip(*track, strict=True))
        if all(_gap(box, second) >= EventLaws().gap * world.scale for box in boxes):
            return Event("pair", {"colour": colour, "shape": shape}, place=(*place, radius)), track
    return None


def _cut(setting: Setting, _: Track) -> tuple[Event, Track] | None:
    """The same motion in two shots, the second from nearer or further; a growing object does not hide the cut."""
    kind, random, zoom = setting.attributes, setting.random, EventLaws().zoom
    frame = random.randint(math.ceil(setting.frames / 3), setting.frames * 2 // 3)
    zooms = {"grow": [1 / zoom], "shrink": [zoom]}.get(kind["motion"], [zoom, 1 / zoom])
    zooms = [zoom for zoom in zooms if setting.fits(kind["shape"], setting.radius * zoom, kind["motion"])]
    if not zooms:
        return None
    first = setting.track(frames=frame)
    second = setting.track(frames=setting.frames - frame, zoom=_choice(zooms, random))
    return Event("cut", cut=frame), (first[0] + second[0], first[1] + second[1])


def _change(setting: Setting, track: Track) -> tuple[Event, Track] | None:
    """Both scenes move on, and their places, radii and pixels are blended."""
    kind, random, frames = setting.attributes, setting.random, setting.frames
    others = [
        (colour, shape, size, motion)
        for (colour, shape, motion), size in product(setting.world.triples(setting.split), SIZES)
        if colour != kind["colour"]
        and shape != kind["shape"]
        and motion in _SAME_SIZE
        and setting.fits_class(shape, size, motion)
    ]
    if kind["motion"] not in _SAME_SIZE or not others:
        return None
    other = dict(zip(("colour", "shape", "size", "motion"), _choice(others, random), strict=True))
    other["background"] = _other(BACKGROUNDS, kind["background"], random)
    shares = _shares(frames, random)
    second = setting.track_of(other["shape"], other["size"], other["motion"])
    blended = zip(*track, *second, shares, strict=True)
    places, radii = zip(
        *(((x + s * (u - x), y + s * (v - y)), r + s * (q - r)) for (x, y), r, (u, v), q, s in blended), strict=True
    )
    return Event("change", other, shares=shares), (list(places), list(radii))


def _shares(frames: int, random: Random) -> tuple[float, ...]:
    """Of the second scene: linear between a frame of the first fifth and one of the last."""
    laws, fifth = EventLaws(), frames // 5
    head, tail = max(laws.head, math.ceil(frames / 8)), laws.tail * (2 if frames >= 33 else 1)
    start = random.randint(head, max(head, fifth))
    end = random.randint(min(frames - fifth, frames - tail), frames - tail)
    return tuple(min(max((t - start + 1) / (end - start + 1), 0.0), 1.0) for t in range(frames))


_DRAW: dict[str, Callable[[Setting, Track], tuple[Event, Track] | None]] = {
    "pair": _pair,
    "occluder": _occluder,
    "leave": _leave,
    "swing": _swing,
    "cut": _cut,
    "change": _change,
}


def _box(shape: str, place: Point, radius: float) -> tuple[float, float, float, float]:
    """An object's left, upper, right and lower end."""
    left, right, up, down = (reach * radius for reach in extents(shape))
    return place[0] - left, place[1] - up, place[0] + right, place[1] + down


def _gap(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    """Between two boxes, along the axis on which they are further apart; negative where they overlap."""
    return max(max(one[axis] - two[axis + 2], two[axis] - one[axis + 2]) for axis in (0, 1))


def _other(options: Mapping[str, Any], taken: str, random: Random) -> str:
    return _choice([option for option in options if option != taken], random)


def _choice(options: Sequence[Any], random: Random) -> Any:
    return options[int(random.random() * len(options))]
