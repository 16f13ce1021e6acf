"""From pixels to tracks: the background, the object's colour, its matte, and where it is in each frame.

Letters: B clips, T H W frames, rows, columns, M = B x T pictures. Colours are 0 to 255.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

#: Less of the object in a pixel than this is taken for noise.
FAINT = 0.15


@dataclass(frozen=True)
class Blobs:
    """What is seen in B clips of one size.

    Attributes:
        ground: (B, 3) colour of the background.
        colour: (B, 3) colour of the object.
        matte: (B, T, H, W) the object's share of each pixel, in [0, 1].
        centre: (B, T, 2) x and y of the matte's centroid, pixel i covering [i, i + 1].
        area: (B, T) in pixels.
        seen: (B, T) bool, whether there is an object.
        count: (B, T) number of objects.
    """

    ground: Tensor
    colour: Tensor
    matte: Tensor
    centre: Tensor
    area: Tensor
    seen: Tensor
    count: Tensor

    def only(self, use: Tensor) -> "Blobs":
        """The same with nothing to be seen but in some frames (B, T)."""
        matte, area = self.matte * use[..., None, None], self.area * use
        return replace(self, matte=matte, area=area, seen=self.seen & use)

    def offsets(self) -> tuple[Tensor, Tensor]:
        """The pixels' middles from the centre: x (B, T, W) and y (B, T, H)."""
        height, width = self.matte.shape[-2:]
        x, y = (torch.arange(size) + 0.5 for size in (width, height))
        return x - self.centre[..., :1], y - self.centre[..., 1:]


def find_blobs(video: Tensor, *, contrast: float, speck: float, scale: int, reach: int) -> Blobs:
    """Find the largest object of each frame.

    The object's matte is its pixels' place on the way from the background's colour to the object's, taken only around
    the object: over a whole frame such a matte is fragile to noise, and a hard mask is several times coarser.

    Args:
        video: (B, T, 3, H, W) in [0, 255].
        contrast: colours further than this from the background are object.
        speck: objects of fewer pixels are not counted.
        scale: of the world.
        reach: pixels around what is object in which its fainter parts are looked for.
    """
    ground = border(video, 2 * scale).median(-1).values  # (B, T, 3)
    offset = video - ground[..., None, None]
    distance = offset.square().sum(2).sqrt_()  # (B, T, H, W)
    main, count = components(distance > contrast, speck)
    seen = main.flatten(2).any(-1)
    colour = _core_colour(video, distance, main)
    axis = colour[:, None] - ground  # (B, T, 3)
    matte = (offset * (axis / axis.square().sum(-1, keepdim=True).clamp(min=1.0))[..., None, None]).sum(2)
    matte = torch.where(around(main, reach) & (matte >= FAINT), matte, 0.0).clamp_(max=1)
    area = matte.sum((-2, -1))
    height, width = video.shape[-2:]
    x = (matte.sum(-2) * (torch.arange(width) + 0.5)).sum(-1)
    y = (matte.sum(-1) * (torch.arange(height) + 0.5)).sum(-1)
    centre = torch.stack([x, y], -1) / area.clamp(min=1e-6)[..., None]
    return Blobs(ground.mean(1), colour, matte, centre, area, seen, count)


def border(video: Tensor, width: int) -> Tensor:
    """The pixels along the frame's edge: (B, T, 3, P)."""
    sides = [video[..., :width, :], video[..., -width:, :]]
    inner = video[..., width:-width, :]
    sides += [inner[..., :width], inner[..., -width:]]
    return torch.cat([side.flatten(3) for side in sides], -1)


def _core_colour(video: Tensor, distance: Tensor, main: Tensor) -> Tensor:
    """The mean colour of the object's pixels that differ most from the background, over the clip: (B, 3)."""
    inside = distance * main
    core = inside > 0.8 * inside.amax((-2, -1), keepdim=True)
    weight = (core & main).to(video.dtype)
    total = torch.einsum("bthw,btchw->bc", weight, video)
    return total / weight.sum((1, 2, 3)).clamp(min=1)[:, None]


def around(mask: Tensor, reach: int) -> Tensor:
    """The bounding box of each frame's mask, `reach` larger on all sides."""
    size = 2 * reach + 1
    boxes = []
    for axis in (-1, -2):
        line = mask.any(axis)  # (B, T, H or W)
        between = line.cumsum(-1).gt(0) & line.flip(-1).cumsum(-1).flip(-1).gt(0)
        wide = max_pool2d(between.float().flatten(0, 1)[:, None], (1, size), 1, (0, reach))
        boxes.append(wide[:, 0].unflatten(0, mask.shape[:2]) > 0)
    rows, columns = boxes
    return rows[..., :, None] & columns[..., None, :]


def components(mask: Tensor, speck: float) -> tuple[Tensor, Tensor]:
    """The largest connected part of each frame's mask (B, T, H, W), and how many parts are no specks (B, T).

    Labels are pixel numbers that spread to neighbours (the larger wins) and then to where that pixel's label points,
    until nothing changes: a few rounds, whatever the shape.
    """
    pictures = mask.flatten(0, 1)  # (M, H, W)
    number = torch.arange(1, pictures[0].numel() + 1, dtype=torch.float32).view(pictures.shape[1:])
    labels = number * pictures
    while True:
        spread = _largest_near(_largest_near(labels, 1), 2) * pictures
        flat = torch.cat([spread.new_zeros(len(spread), 1), spread.flatten(1)], 1)
        joined = flat.gather(1, flat.long())[:, 1:].view_as(labels)
        if torch.equal(joined, labels):
            break
        labels = joined
    index = labels.flatten(1).long()  # (M, HW), 0 = background
    areas = torch.zeros(len(index), index.shape[1] + 1).scatter_add_(
        1, index, torch.ones_like(index, dtype=torch.float32)
    )
    areas[:, 0] = 0
    largest = areas.argmax(1)
    main = (index == largest[:, None]) & (largest > 0)[:, None]
    count = (areas >= max(speck, 1.0)).sum(1)
    return main.view_as(mask), count.view(mask.shape[:2])


def _largest_near(values: Tensor, dim: int) -> Tensor:
    """The largest of each value and its two neighbours along a dimension; several times faster than max_pool2d here."""
    size = values.shape[dim]
    out = values.clone()
    for here, there in ((0, 1), (1, 0)):
        part = out.narrow(dim, here, size - 1)
        torch.maximum(part, values.narrow(dim, there, size - 1), out=part)
    return out
