"""The exact judge of the made world: reads every attribute of a clip off its pixels.

It knows the world from its definition (`world.json`) alone. Method and measured floors of such trackers: background
from the border, a soft matte around the object, template overlap for shape, fitted laws for motion.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from kinema_core import Clip
from torch import Tensor

from kinema_metrics.world.blobs import FAINT, Blobs, find_blobs
from kinema_metrics.world.events import read_event
from kinema_metrics.world.motion import read_motion
from kinema_metrics.world.outlines import Kind, spread, style_of

ATTRIBUTES = ("colour", "shape", "size", "motion", "background", "count")
#: One more where the world has styles.
STYLE = "style"
#: And one more where something can happen.
EVENT = "event"
_NEEDED = ("scale", "colours", "backgrounds", "shapes", "sizes", "directions", "no_motion", "laws")
#: Pixels of one batch; bounds memory.
_BATCH_PIXELS = 600_000
#: Blurs to try where a shape is soft: standard deviations in pixels at scale 1.
_BLURS = (0.7, 1.1, 1.5, 2.0)


@dataclass(frozen=True)
class Reading:
    """What a clip shows.

    Attributes:
        colour, shape, size, motion: None where there is nothing to tell from; motion is also None where the track
            obeys no law of the world, and the world's word for "none" in an image.
        background: always the nearest.
        style: of the world's; "flat" where it has no others.
        count: objects in most frames.
        lost: no object in more than a quarter of the frames.
        positions: (x, y) in pixels in each frame, nan where there is no object.
        radii: in pixels.
        overlap: intersection over union of the object and the ideal sharp shape that is nearest, over the clip.
        event: what happens beside the motion; "none" where nothing does or can.
        other: of a pair the second object's colour and shape, of a change the second scene's, and its background.
    """

    colour: str | None
    shape: str | None
    size: str | None
    motion: str | None
    background: str
    style: str | None
    count: int
    lost: bool
    positions: tuple[tuple[float, float], ...]
    radii: tuple[float, ...]
    overlap: float
    event: str = "none"
    other: Mapping[str, str | None] = field(default_factory=dict)


class Judge:
    """Reads clips of a made world.

    Args:
        world: its definition, or the path of its `world.json`.
    """

    def __init__(self, world: Mapping[str, Any] | str | Path) -> None:
        if not isinstance(world, Mapping):
            world = json.loads(Path(world).read_text())
        self.events = list(world.get("events", ["none"]))
        self.eventful = set(self.events) != {"none"}
        missing = [key for key in (*_NEEDED, *(["event_laws"] if self.eventful else [])) if key not in world]
        if missing:
            raise ValueError(f"the world's definition lacks {', '.join(missing)}")
        self.world = world
        self.shapes = list(world["shapes"])
        # Each once: a world names twice what it draws twice as often.
        self.styles = list(dict.fromkeys(world.get("styles", ["flat"])))
        self.scale: int = world["scale"]
        largest = 2 * max(world["sizes"].values()) * world["scale"]
        # All that an object can be, in the order (style, shape).
        self.kinds = [
            Kind(outline, style_of(style, world["laws"], world["scale"]), largest)
            for style in self.styles
            for outline in world["shapes"].values()
        ]
        colours, grounds = (
            torch.tensor(list(world[key].values()), dtype=torch.float32) for key in ("colours", "backgrounds")
        )
        self.contrast = 0.5 * torch.cdist(colours, grounds).min().item()
        # Beside a full block of a pixelated object can be one of which no pixel has half.
        self.reach = self.scale * max(2, world["laws"]["block"] if "pixelated" in self.styles else 0)
        smallest = min(world["sizes"].values()) / world["laws"]["growth"] * world["scale"]
        self.speck = 0.25 * min(kind.unit_area for kind in self.kinds) * smallest**2

    def read(self, clips: Sequence[Clip]) -> list[Reading]:
        """The readings of clips of any sizes, from their pixels as 8 bit values."""
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, clip in enumerate(clips):
            groups[tuple(clip.video.shape)].append(i)
        readings: dict[int, Reading] = {}
        for shape, members in groups.items():
            most = max(_BATCH_PIXELS // (shape[1] * shape[2] * shape[3]), 1)
            for start in range(0, len(members), most):
                part = members[start : start + most]
                video = torch.stack([clips[i].video.detach().float().cpu() for i in part])
                readings.update(zip(part, self._read(video), strict=True))
        return [readings[i] for i in range(len(clips))]

    @torch.no_grad()
    def _read(self, video: Tensor) -> list[Reading]:
        """Readings of (B, 3, T, H, W) in [-1, 1]."""
        # A diverged model's nan are grey: there is nothing to see then.
        levels = ((video.nan_to_num() + 1) * 127.5).round_().clamp_(0, 255).transpose(1, 2)  # (B, T, 3, H, W)
        if self.eventful:
            return [read_event(self, clip[None]) for clip in levels]
        return self.describe(self.find(levels))

    def find(self, levels: Tensor) -> Blobs:
        """What is seen in (B, T, 3, H, W), 0 to 255."""
        return find_blobs(levels, contrast=self.contrast, speck=self.speck, scale=self.scale, reach=self.reach)

    def describe(self, blobs: Blobs, use: Tensor | None = None) -> list[Reading]:
        """Readings of what is seen, by some frames (B, T) or by all."""
        world, scale, frames = self.world, self.scale, blobs.seen.shape[1]
        if use is not None:
            blobs = blobs.only(use)
        overlap = self._overlaps(blobs)  # (B, K)
        kind = self._kinds(blobs, overlap)
        spreads = spread(blobs.matte, *blobs.offsets())
        radius = torch.stack(  # (B, T)
            [self.kinds[k].radius(*seen) for k, *seen in zip(kind, blobs.area, spreads, strict=True)]
        )
        log_radius = (radius / scale).clamp(min=0.1).log()
        share = blobs.seen.float()
        mean_radius = ((log_radius * share).sum(1) / share.sum(1).clamp(min=1)).exp()
        motion: list[str | None] = [world["no_motion"]] * len(blobs.seen)
        if frames > 1:
            motion = read_motion(blobs.centre / scale, log_radius, blobs.seen, world)
        colour, ground = (
            _nearest(values, world[key]) for values, key in ((blobs.colour, "colours"), (blobs.ground, "backgrounds"))
        )
        sizes = list(world["sizes"])
        log_sizes = torch.tensor(list(world["sizes"].values())).log()
        size = (mean_radius.log()[:, None] - log_sizes).abs().argmin(1)
        lost = share.sum(1) < 0.75 * (frames if use is None else use.sum(1))
        counts = blobs.count.float().quantile(0.5, dim=1, interpolation="nearest").long()
        centres = torch.where(blobs.seen[..., None], blobs.centre, torch.nan)
        radii = torch.where(blobs.seen, radius, torch.nan)
        return [
            Reading(
                colour=None if lost[i] else colour[i],
                shape=None if lost[i] else self.shapes[kind[i] % len(self.shapes)],
                size=None if lost[i] else sizes[int(size[i])],
                motion=None if lost[i] else motion[i],
                background=ground[i],
                style=None if lost[i] else self.styles[kind[i] // len(self.shapes)],
                count=int(counts[i]),
                lost=bool(lost[i]),
                positions=tuple((x, y) for x, y in centres[i].tolist()),
                radii=tuple(radii[i].tolist()),
                overlap=float(overlap[i].max()),
            )
            for i in range(len(blobs.seen))
        ]

    def _overlaps(self, blobs: Blobs, blur: float = 0.0) -> Tensor:
        """Intersection over union with each kind at the matte's own area and place, over all frames: (B, K).

        Args:
            blobs: what is seen.
            blur: standard deviation in pixels of a Gaussian that softens the ideal shape.
        """
        height, width = blobs.matte.shape[-2:]
        x, y = blobs.offsets()
        spreads = spread(blobs.matte, x, y) - 2 * blur**2
        overlaps = []
        for kind in self.kinds:
            ideal = kind.template(x, y, kind.radius(blobs.area, spreads))
            if blur:
                ideal = _gaussian(height, blur) @ ideal @ _gaussian(width, blur)
                ideal = torch.where(ideal >= FAINT, ideal, 0.0)
            if kind.lines:  # as much of it as is seen, in lines of any width
                ideal *= (blobs.area / ideal.sum((-2, -1)).clamp(min=1e-6))[..., None, None]
                ideal.clamp_(max=1)
            both = torch.minimum(ideal, blobs.matte).sum((1, 2, 3))
            either = ideal.sum((1, 2, 3)) + blobs.area.sum(1) - both
            overlaps.append(both / either.clamp(min=1e-6))
        return torch.stack(overlaps, 1)

    def _kinds(self, blobs: Blobs, overlap: Tensor) -> list[int]:
        """The nearest kind of each clip.

        A blurred square overlaps a sharp circle better than a sharp square. So where no sharp shape fits well, shapes
        are compared at the blur that suits each best.
        """
        best = overlap.clone()
        soft = (overlap.amax(1) < 0.95).nonzero()[:, 0]
        if len(soft):
            part = Blobs(**{name: value[soft] for name, value in vars(blobs).items()})
            blurred = [self._overlaps(part, blur * self.world["scale"]) for blur in _BLURS]
            best[soft] = torch.stack([overlap[soft], *blurred]).amax(0)
        return best.argmax(1).tolist()


def _gaussian(size: int, deviation: float) -> Tensor:
    """The matrix that blurs a line of pixels, symmetric: (size, size)."""
    place = torch.arange(size, dtype=torch.float32)
    weight = torch.exp(-0.5 * ((place[:, None] - place) / deviation).square())
    return weight / (deviation * (2 * torch.pi) ** 0.5)


def _nearest(values: Tensor, palette: Mapping[str, Sequence[float]]) -> list[str]:
    names = list(palette)
    table = torch.tensor([palette[name] for name in names], dtype=torch.float32)
    return [names[i] for i in torch.cdist(values, table).argmin(1).tolist()]
