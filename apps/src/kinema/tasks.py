"""Every task is a keep mask: which given latent cells stay as they are (DESIGN section 1, idea 4).

Letters: B clips, N latent cells, C channels, T H W of a clip in pixels, t h w of its latents.
"""

from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from kinema_core import Denoise, Ragged, VideoVAE, seeded_generator
from torch import Generator, Tensor

from kinema.placement import place_of


@dataclass(frozen=True)
class Keep:
    """Cells that are given.

    Attributes:
        mask: (N,) bool, constant within a patch.
        given: (N, C) clean latents; anything where the mask is false.
    """

    mask: Tensor
    given: Tensor

    def wrap(self, denoise: Denoise) -> Denoise:
        """A denoiser that sees kept cells clean at time 0 and returns them as given."""
        mask = self.mask[:, None]

        def kept(x: Tensor, t: Tensor) -> Tensor:
            x0 = denoise(torch.where(mask, self.given.to(x), x), torch.where(self.mask, 0, t))
            return torch.where(mask, self.given.to(x0), x0)

        return kept

    def start(self, x: Tensor) -> Tensor:
        """x (N, C) with the kept cells as given."""
        return torch.where(self.mask[:, None], self.given.to(x), x)


def frames_mask(grid: tuple[int, int, int], frames: Sequence[int]) -> Tensor:
    """(t, h, w) bool: whole latent frames are kept."""
    mask = torch.zeros(grid, dtype=torch.bool)
    mask[list(frames)] = True
    return mask


def whole_patches(kept: Sequence[int], t: int, length: int) -> list[int]:
    """Those of the kept latent frames, of t, whose patch of `length` frames is kept whole: no other can be.

    Raises:
        ValueError: frames are kept, and no patch of them whole.
    """
    starts = [frame - frame % length for frame in kept]
    whole = [
        frame
        for frame, start in zip(kept, starts, strict=True)
        if all(other in kept for other in range(start, min(t, start + length)))
    ]
    if kept and not whole:
        raise ValueError(f"no patch of {length} latent frames is given whole; give more frames")
    return whole


@torch.no_grad()
def source_features(vae: VideoVAE, shape: tuple[int, int, int], given: Tensor | None, frames: Sequence[int]) -> Tensor:
    """What Wan's image-to-video models are given beside the latents: which frames are known, and their latents.

    Args:
        vae: of stride (st, sh, sw).
        shape: (T, H, W) of the video that is asked for.
        given: (3, T', H, W) in [-1, 1], its first frames; None where nothing is known.
        frames: the latent frames that are known.

    Returns:
        (t h w, st + C): 1 for each known one of the st frames of a cell (the first frame counts st times), and the
        latents of the video with grey for what is not known.
    """
    stride = vae.stride[0]
    t, h, w = vae.latent_grid(*shape)
    wanted = frames_mask((t, 1, 1), frames).flatten()  # (t,)
    known = wanted.repeat_interleave(stride)[stride - 1 :]  # (T,): the first latent frame is one frame
    known[0 if given is None else given.shape[1] :] = False
    video = torch.zeros(3, *shape)
    if given is not None:
        video[:, known] = given[:, : shape[0]][:, known[: given.shape[1]]]
    latents = vae.encode(video[None].to(**place_of(vae)))[0]  # (C, t, h, w)
    mask = torch.cat([known[:1].expand(stride - 1), known]).unflatten(0, (t, stride)).T  # (st, t)
    return torch.cat([mask[..., None, None].expand(-1, -1, h, w).to(latents), latents]).flatten(1).T


def region_mask(
    grid: tuple[int, int, int], keep: Tensor, stride: tuple[int, int], patch: tuple[int, int, int]
) -> Tensor:
    """(t, h, w) bool: patches of which every pixel is kept, through all frames.

    Args:
        grid: of the latents.
        keep: (H, W) bool, the pixels that stay; what hangs over the frame's edge counts as kept.
        stride: pixels of a cell, rows and columns.
        patch: cells of a token.
    """
    _, h, w = grid
    sh, sw = stride
    free = torch.nn.functional.pad((~keep).float(), (0, w * sw - keep.shape[1], 0, h * sh - keep.shape[0]))
    cells = torch.nn.functional.max_pool2d(free[None, None], stride, stride)[0] > 0  # (1, h, w)
    return ~snapped(cells.expand(grid), patch)


def snapped(mask: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """A mask (t, h, w) with every patch kept of which any cell is: noise has to be constant within a patch."""
    t, h, w = mask.shape
    pt, ph, pw = patch
    padded = torch.nn.functional.pad(mask.float(), (0, -w % pw, 0, -h % ph, 0, -t % pt))
    blocks = torch.nn.functional.max_pool3d(padded[None, None], patch, patch)[0, 0]
    for dim, size in enumerate(patch):
        blocks = blocks.repeat_interleave(size, dim)
    return blocks[:t, :h, :w].bool()


#: What a random keep mask may give: the first frame, a head, a tail, both ends, scattered frames, all around a box.
MASKS = ("box", "first", "head", "tail", "ends", "scattered")


def training_masks(
    x: Ragged,
    ids: Sequence[str],
    patch: tuple[int, int, int],
    *,
    share: float,
    weights: Mapping[str, float] | None = None,
    key: tuple[int, int],
) -> Tensor:
    """Random keep masks (N,) for training, so that one model serves all tasks.

    Args:
        x: the latents.
        ids: of the clips; a clip's mask depends on (key, id) alone.
        patch: of the transformer.
        share: the part of the clips that keep anything.
        weights: how much more often one of `MASKS` is drawn than another; 1 where not given. Images have boxes only.
        key: (seed, step).

    Raises:
        ValueError: a weight of no mask, or none above 0.
    """
    ends = mask_ends(weights or {})
    masks = [
        snapped(_random_mask(grid, share, ends, seeded_generator(*key, clip, "mask")), patch).flatten()
        for grid, clip in zip(x.grids, ids, strict=True)
    ]
    return torch.cat(masks)


def mask_ends(weights: Mapping[str, float]) -> list[float]:
    """Where the share of each of `MASKS` ends in [0, 1]. ValueError as in `training_masks`."""
    unknown = [name for name in weights if name not in MASKS]
    ends = list(accumulate(weights.get(name, 1.0) for name in MASKS))
    if unknown or min(weights.values(), default=0) < 0 or ends[-1] <= 0:
        raise ValueError(f"weights of masks are {dict(weights)}; give numbers from 0 on for any of {', '.join(MASKS)}")
    return [end / ends[-1] for end in ends]


def _random_mask(grid: tuple[int, int, int], share: float, ends: Sequence[float], generator: Generator) -> Tensor:
    """Nothing, or one of `MASKS`."""
    draw, pick, size, at = torch.rand(4, generator=generator).tolist()
    if draw >= share:
        return torch.zeros(grid, dtype=torch.bool)
    kind = MASKS[bisect(ends[:-1], pick)]
    if grid[0] == 1 or kind == "box":
        return _around_box(grid, size, torch.rand(2, generator=generator).tolist())
    return frames_mask(grid, _random_frames(grid[0], kind, size, at, generator))


def _random_frames(t: int, kind: str, size: float, at: float, generator: Generator) -> list[int]:
    """Some of t > 1 latent frames, never all."""
    count = 1 + int(size * (t - 1))
    if kind == "first":
        return [0]
    if kind == "head":
        return list(range(count))
    if kind == "tail":
        return list(range(t - count, t))
    if kind == "ends" and t > 2:
        most = (t - 1) // 2
        head, tail = (1 + int(share * most) for share in (at, size))
        return [*range(head), *range(t - tail, t)]
    scattered = torch.rand(t, generator=generator) < size
    scattered[int(at * t)] = False
    return scattered.nonzero().flatten().tolist()


def _around_box(grid: tuple[int, int, int], size: float, place: list[float]) -> Tensor:
    """All cells but those in a box of rows and columns, through all frames: in-painting."""
    _, h, w = grid
    height, width = (max(1, round(n * (0.3 + 0.6 * size))) for n in (h, w))
    top, left = (int(p * (n - m + 1)) for p, n, m in zip(place, (h, w), (height, width), strict=True))
    mask = torch.ones(grid, dtype=torch.bool)
    mask[:, top : top + height, left : left + width] = False
    return mask
