"""What happens in a clip of a made world beside its motion: found by what only this event does, then read in parts.

Clips are judged one by one, for every event splits its frames at another place: levels (1, T, 3, H, W) in 0 to 255.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinema_metrics.world.blobs import Blobs, around, border, components
from kinema_metrics.world.motion import read_swing

if TYPE_CHECKING:
    from kinema_metrics.world.judge import Judge, Reading

#: A bar is near its colour in this share of its rows and of the frames.
_BAR = 0.9
#: Shares of its largest area at which an object is seen well enough to read it, and to say where it is.
_UNHIDDEN, _VISIBLE = 0.93, 0.75
#: A jump of the radius's logarithm from one frame to the next, beyond what it does all the time.
_ZOOM = 0.2
#: The fewest frames of a shot, and of a stay outside the frame.
_SHOT, _AWAY = 4, 2


def read_event(judge: "Judge", levels: Tensor) -> "Reading":
    """The reading of one clip in which something may happen."""
    blobs = judge.find(levels)
    if levels.shape[1] >= judge.world["event_laws"]["frames"]:
        for event, read in _READ.items():
            if event in judge.events and (reading := read(judge, levels, blobs)) is not None:
                return replace(reading, event=event)
    return judge.describe(blobs)[0]


def _shown(blobs: Blobs) -> Tensor:
    """The share of the object that is seen in each frame, if it keeps its size: (1, T)."""
    return blobs.area / blobs.area.amax().clamp(min=1)


def _occluder(judge: "Judge", levels: Tensor, blobs: Blobs) -> "Reading | None":
    """A bar of full height, replaced by the background; the object is read where it is not behind it."""
    laws, scale = judge.world["event_laws"], judge.scale
    near = (levels - torch.tensor(laws["bar_colour"])[:, None, None]).norm(dim=2) < judge.contrast
    bar = (near.float().mean(2) >= _BAR).float().mean((0, 1)) >= _BAR  # (W,)
    if not laws["bar"] * scale / 2 <= bar.sum() <= laws["bar"] * scale * 2:
        return None
    blobs = judge.find(_without_bar(levels, bar, blobs.ground[0], judge))
    whole, most = _shown(blobs) >= _UNHIDDEN, _shown(blobs) >= _VISIBLE
    if most.all() or not whole.any():
        return None
    # Few frames show all of an object that has hardly room beside the bar; for the motion a little less will do.
    motion = judge.describe(blobs, most)[0].motion
    return replace(judge.describe(blobs, whole)[0], motion=motion, count=_median(blobs.count[whole]))


def _without_bar(levels: Tensor, bar: Tensor, ground: Tensor, judge: "Judge") -> Tensor:
    """The background (3,) in place of a bar (W,), and of its soft edges: near it, all that is between the two."""
    colour, ground = torch.tensor(judge.world["event_laws"]["bar_colour"]), ground[:, None, None]
    axis = colour[:, None, None] - ground
    share = ((levels - ground) * axis).sum(2, keepdim=True) / axis.square().sum()
    between = (levels - ground - share.clamp(0, 1) * axis).norm(dim=2, keepdim=True) < judge.contrast / 2
    return torch.where(bar | (_wider(bar, 2 * judge.scale) & between), ground, levels)


def _pair(judge: "Judge", levels: Tensor, blobs: Blobs) -> "Reading | None":
    """Two objects, each read with the other painted over: the one that moves more is the first."""
    if (blobs.count == 2).float().mean() <= 0.5:
        return None
    masks = _two(judge, levels)
    ground = blobs.ground[:, None, :, None, None]
    found = []
    for mask, other in (masks, masks[::-1]):
        hidden = around(other, 2 * judge.scale) & ~around(mask, judge.scale)
        alone = judge.find(torch.where(hidden[:, :, None], ground, levels))
        if not alone.seen.any():
            return None
        track = torch.cat([alone.centre, alone.area.sqrt()[..., None]], -1)[alone.seen]
        found.append((track.var(0, correction=0).sum().item(), judge.describe(alone)[0]))
    (_, second), (_, first) = sorted(found, key=lambda pair: pair[0])
    other = {"colour": second.colour, "shape": second.shape}
    return replace(first, other=other, count=_median(blobs.count))


def _two(judge: "Judge", levels: Tensor) -> tuple[Tensor, Tensor]:
    """The masks of the two largest objects, (1, T, H, W) each; each is one object in all frames."""
    ground = border(levels, 2 * judge.scale).median(-1).values
    mask = (levels - ground[..., None, None]).norm(dim=2) > judge.contrast
    one = components(mask, judge.speck)[0]
    two = components(mask & ~one, judge.speck)[0]
    marks = torch.stack([_mark(judge, levels, part) for part in (one, two)])[:, 0]  # (2, T, 5)
    last = None
    for t in range(levels.shape[1]):
        if not two[0, t].any():
            continue
        here = marks[:, t]
        if last is not None and (here - last).norm(dim=1).sum() > (here.flip(0) - last).norm(dim=1).sum():
            one[0, t], two[0, t] = two[0, t].clone(), one[0, t].clone()
            here = here.flip(0)
        last = here
    return one, two


def _mark(judge: "Judge", levels: Tensor, mask: Tensor) -> Tensor:
    """What tells objects apart, (1, T, 5): colour in contrasts, and place in units of a small object."""
    share = mask.float() / mask.sum((-2, -1), keepdim=True).clamp(min=1)
    height, width = mask.shape[-2:]
    colour = (levels * share[:, :, None]).sum((-2, -1)) / (2 * judge.contrast)
    x = (share.sum(-2) * torch.arange(width)).sum(-1)
    y = (share.sum(-1) * torch.arange(height)).sum(-1)
    smallest = 2 * min(judge.world["sizes"].values()) * judge.scale
    return torch.cat([colour, torch.stack([x, y], -1) / smallest], -1)


def _change(judge: "Judge", levels: Tensor, blobs: Blobs) -> "Reading | None":
    """First and last frames differ in colour or background, and no single frame does most of it."""
    laws = judge.world["event_laws"]
    head, tail = judge.find(levels[:, : laws["head"]]), judge.find(levels[:, -laws["tail"] :])
    first, second = judge.describe(head)[0], judge.describe(tail)[0]
    grounds, colours = (
        (getattr(tail, name) - getattr(head, name)).norm() > judge.contrast for name in ("ground", "colour")
    )
    grounds = bool(grounds) and first.background != second.background
    colours = bool(colours) and not (first.lost or second.lost) and first.colour != second.colour
    if not grounds and not colours:
        return None
    ground = border(levels, 2 * judge.scale).median(-1).values[0]  # (T, 3)
    if grounds and ground.diff(dim=0).norm(dim=1).max() > 0.5 * (ground[-1] - ground[0]).norm():
        return None
    other = {"colour": second.colour, "shape": second.shape, "background": second.background}
    all_frames = judge.describe(blobs)[0]
    return replace(first, motion=None, other=other, positions=all_frames.positions, radii=all_frames.radii)


def _leave(judge: "Judge", _: Tensor, blobs: Blobs) -> "Reading | None":
    """Seen at both ends and not for a while between; the motion is where it goes before, and comes from after."""
    seen, use = blobs.seen[0], _shown(blobs)[0] >= _UNHIDDEN
    unseen = (~seen).nonzero()[:, 0]
    if len(unseen) < _AWAY or not use[0] or not use[-1] or unseen[-1] - unseen[0] + 1 != len(unseen):
        return None
    place = blobs.centre[0]
    before, after = use.cumprod(0).bool(), use.flip(0).cumprod(0).flip(0).bool()
    out, back = place[before][-1] - place[0], place[after][0] - place[-1]
    use = (before | after)[None]
    reading = judge.describe(blobs, use)[0]
    return replace(reading, motion=_heading(judge, out, back), count=_median(blobs.count[use]))


def _heading(judge: "Judge", out: Tensor, back: Tensor) -> str | None:
    """The direction of both ways out, None where they differ or there is hardly one."""
    names = list(judge.world["directions"])
    unit = torch.nn.functional.normalize(torch.tensor([judge.world["directions"][name] for name in names]).float())
    ways = torch.stack([out + back, out, back])
    if ways[0].norm() < judge.scale:
        return None
    best, *both = (ways @ unit.T).argmax(1).tolist()
    # Each way is short, so only their sum tells neighbours apart.
    apart = [float(unit[best] @ unit[one]) for one in both]
    return names[best] if min(apart) > 0.5 else None


def _cut(judge: "Judge", levels: Tensor, blobs: Blobs) -> "Reading | None":
    """A jump of radius or place between two frames; each shot is read alone."""
    both = blobs.seen[0, 1:] & blobs.seen[0, :-1]
    if not both.any():
        return None
    growth = 0.5 * blobs.area[0].clamp(min=1).log().diff()
    step = blobs.centre[0].diff(dim=0).norm(dim=1)
    usual = step[both].median()
    jump = (growth - growth[both].median()).abs() > _ZOOM
    jump = (both & (jump | (step > 3 * (usual + judge.scale)))).nonzero()[:, 0]
    if not 1 <= len(jump) <= 2 or jump[-1] - jump[0] != len(jump) - 1:
        return None
    end, start, frames = int(jump[0]) + 1, int(jump[-1]) + 1, levels.shape[1]
    if min(end, frames - start) < _SHOT:
        return None
    first, second = (judge.describe(judge.find(shot))[0] for shot in (levels[:, :end], levels[:, start:]))
    if (first.colour, first.background) != (second.colour, second.background):
        return None
    longer, whole = max(first, second, key=lambda shot: len(shot.radii)), judge.describe(blobs)[0]
    return replace(
        first, motion=longer.motion, count=whole.count, lost=whole.lost, positions=whole.positions, radii=whole.radii
    )


def _swing(judge: "Judge", _: Tensor, blobs: Blobs) -> "Reading | None":
    use, laws = blobs.seen, judge.world["event_laws"]
    log_radius = 0.5 * (blobs.area.clamp(min=1) / judge.scale**2).log()
    motion = read_swing(blobs.centre / judge.scale, log_radius, use, judge.world, least_period=laws["period"])
    return None if motion is None else replace(judge.describe(blobs)[0], motion=motion)


#: In this order: what would look like another event comes before it.
_READ: dict[str, Callable[["Judge", Tensor, Blobs], "Reading | None"]] = {
    "occluder": _occluder,
    "pair": _pair,
    "change": _change,
    "leave": _leave,
    "cut": _cut,
    "swing": _swing,
}


def _wider(line: Tensor, reach: int) -> Tensor:
    """A mask (W,) and `reach` more on both sides."""
    return torch.nn.functional.max_pool1d(line.float()[None], 2 * reach + 1, 1, reach)[0] > 0


def _median(counts: Tensor) -> int:
    return int(counts.flatten().float().quantile(0.5, interpolation="nearest"))
