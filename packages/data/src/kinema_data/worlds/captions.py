"""Captions of the made world: many ways to say one thing, from a modest vocabulary.

No motion is described with the name of a shape ("in a circle"), so each word has one meaning.
"""

from collections.abc import Collection, Mapping
from random import Random

SIZE_WORDS = {"small": ("small", "little"), "medium": ("medium", "medium-sized"), "large": ("large", "big")}

#: Words for each style.
STYLE_WORDS = {
    "flat": ("flat", "plain"),
    "outline": ("outlined", "hollow"),
    "textured": ("striped", "textured"),
    "pixelated": ("pixelated", "blocky"),
}


def _straight(where: str, towards: str) -> tuple[str, ...]:
    return f"moves {where}", f"goes {where}", f"slides {where}", f"moves {towards}", f"drifts {towards}"


MOTION_WORDS = {
    "left": _straight("left", "to the left"),
    "right": _straight("right", "to the right"),
    "up": (*_straight("up", "upwards"), "rises"),
    "down": (*_straight("down", "downwards"), "sinks"),
    "up-left": _straight("up and left", "diagonally to the upper left"),
    "up-right": _straight("up and right", "diagonally to the upper right"),
    "down-left": _straight("down and left", "diagonally to the lower left"),
    "down-right": _straight("down and right", "diagonally to the lower right"),
    "bounce": ("bounces", "bounces off the floor", "drops and bounces back", "hits the floor and comes back"),
    "orbit": ("orbits", "orbits a point", "goes round and round", "moves round a point"),
    "grow": ("grows", "gets bigger", "expands", "grows steadily"),
    "shrink": ("shrinks", "gets smaller", "contracts", "shrinks steadily"),
    "still": ("stays still", "does not move", "rests", "stays in place"),
}
#: What happens, where the motion is told by itself. "{}" is the second object.
EVENT_WORDS = {
    "pair": ("beside {}", "next to {}"),
    "occluder": ("behind a brown bar", "behind an upright brown bar"),
    "cut": ("then a cut to another view", "then the view changes"),
}


def _leaving(where: str) -> tuple[str, str]:
    return f"leaves the frame {where} and comes back", f"moves out of the frame {where} and returns"


#: Motion and event in one.
MOVING = {
    "leave": {
        "left": _leaving("to the left"),
        "right": _leaving("to the right"),
        "up": _leaving("at the top"),
        "down": _leaving("at the bottom"),
        "up-left": _leaving("to the upper left"),
        "up-right": _leaving("to the upper right"),
        "down-left": _leaving("to the lower left"),
        "down-right": _leaving("to the lower right"),
    },
    "swing": {
        "right": ("swings left and right", "swings from side to side"),
        "down": ("swings up and down", "swings upwards and downwards"),
        "down-right": ("swings diagonally to the lower right and back", "swings down and right and back"),
        "up-right": ("swings diagonally to the upper right and back", "swings up and right and back"),
    },
}
GROUND_WORDS = ("on a {} background", "against a {} background", "in front of a {} background", "over a {} background")
#: Attributes that a caption may leave out; colour and shape are always named.
OPTIONAL = ("size", "motion", "background", "style")


def turning_into(first: str, second: str) -> str:
    """The caption of a clip that turns from what one caption says into what another says."""
    return f"{first} turns into {second}"


def draw_captions(
    attributes: Mapping[str, str],
    stated: Collection[str],
    place: str,
    random: Random,
    other: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """A short and a descriptive caption.

    Args:
        attributes: colour, shape, size, motion ("none" for an image), background; style and event, if the
            world has them.
        stated: the attributes to name.
        place: where the shape is at first, such as "at the upper left"; only the descriptive form tells.
        random: chooses the wording.
        other: attributes of an event's second object or scene.
    """
    event = attributes.get("event", "none")
    if event == "change":
        scenes = ((attributes, place), ({**attributes, **(other or {})}, ""))
        one, two = (draw_captions({**scene, "event": "none"}, stated, where, random) for scene, where in scenes)
        then = two["long"].removeprefix("A video of ")
        return {"short": turning_into(one["short"], two["short"]), "long": f"{one['long']} It turns into {then}"}
    thing = _thing(attributes, stated, random)
    verbs = MOVING.get(event, MOTION_WORDS)
    motion = _pick(verbs[attributes["motion"]], random) if "motion" in stated else ""
    ground = _pick(GROUND_WORDS, random).format(attributes["background"]) if "background" in stated else ""
    words = _pick(EVENT_WORDS[event], random) if event in EVENT_WORDS else ""
    does = motion
    if event in ("pair", "occluder"):
        words = words.format(_thing(other, (), random) if other else "")
        motion, does = f"{motion} {words}".lstrip(), f"{motion or 'is'} {words}"
    short = _short(thing, motion, ground, random)
    long = _long(attributes["shape"], thing, does, ground, place, image=attributes["motion"] == "none")
    if event == "cut":
        short, long = f"{short}, {words}", f"{long} {words.capitalize()}."
    return {"short": short, "long": long}


def _thing(attributes: Mapping[str, str], stated: Collection[str], random: Random) -> str:
    size = [_pick(SIZE_WORDS[attributes["size"]], random)] if "size" in stated else []
    style = [_pick(STYLE_WORDS[attributes["style"]], random)] if "style" in stated else []
    words = " ".join([*size, *style, attributes["colour"], attributes["shape"]])
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _short(thing: str, motion: str, ground: str, random: Random) -> str:
    if ground and random.random() < 0.25:
        return f"{ground}, {thing}" + (f" {motion}" if motion else "")
    return " ".join(part for part in (thing, motion, ground) if part)


def _long(shape: str, thing: str, motion: str, ground: str, place: str, *, image: bool) -> str:
    kind = "An image" if image else "A video"
    sentences = [f"{kind} of {thing}{' ' if ground else ''}{ground}."]
    if image:
        sentences.append(f"The {shape} is {place} of the frame.")
    else:
        sentences += [f"The {shape} {motion}."] if motion else []
        subject = "It" if motion else f"The {shape}"
        sentences += [f"{subject} starts {place} of the frame."] if place else []
    return " ".join(sentences)


def _pick(options: tuple[str, ...], random: Random) -> str:
    return options[int(random.random() * len(options))]
