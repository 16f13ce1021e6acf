"""Captions of the made world: many ways to say one thing, from a modest vocabulary.

No motion is described with the name of a shape ("in a circle"), so each word has one meaning.
"""

from collections.abc import Collection, Mapping
from random import Random

SIZE_WORDS = {"small": ("small", "little"), "medium": ("medium", "medium-sized"), "large": ("large", "big")}

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
GROUND_WORDS = ("on a {} background", "against a {} background", "in front of a {} background", "over a {} background")
#: Attributes that a caption may leave out; colour and shape are always named.
OPTIONAL = ("size", "motion", "background", "style")


def draw_captions(attributes: Mapping[str, str], stated: Collection[str], place: str, random: Random) -> dict[str, str]:
    """A short and a descriptive caption.

    Args:
        attributes: colour, shape, size, motion ("none" for an image), background and style, if the world has styles.
        stated: the attributes to name.
        place: where the shape is at first, such as "at the upper left"; only the descriptive form tells.
        random: chooses the wording.
    """
    thing = _thing(attributes, stated, random)
    motion = _pick(MOTION_WORDS[attributes["motion"]], random) if "motion" in stated else ""
    ground = _pick(GROUND_WORDS, random).format(attributes["background"]) if "background" in stated else ""
    return {
        "short": _short(thing, motion, ground, random),
        "long": _long(attributes["shape"], thing, motion, ground, place, image=attributes["motion"] == "none"),
    }


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
    elif motion:
        sentences.append(f"The {shape} {motion}. It starts {place} of the frame.")
    else:
        sentences.append(f"The {shape} starts {place} of the frame.")
    return " ".join(sentences)


def _pick(options: tuple[str, ...], random: Random) -> str:
    return options[int(random.random() * len(options))]
