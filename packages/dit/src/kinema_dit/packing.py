"""Which latent cells make up which token, for clips of many sizes in one sequence.

Letters: B clips, N cells of all clips, L tokens of all clips, P cells a patch.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

#: Extent in time, rows and columns.
Grid: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True)
class Packing:
    """The order of tokens in the packed sequence: clips of equal length stand together.

    Attributes:
        cells: (L, P) index of each token's cells; N where the patch hangs over the clip's edge.
        slots: (N,) the cell's place in the flattened (L * P).
        clip: (L,) the clip of each token.
        order: (B,) the clips as they stand in the sequence.
        groups: (number of clips, tokens a clip) of each run of equal length.
        grids: tokens (in time, rows, columns) of each clip as they stand in the sequence.
    """

    cells: Tensor
    slots: Tensor
    clip: Tensor
    order: Tensor
    groups: tuple[tuple[int, int], ...]
    grids: tuple[Grid, ...]

    def patchify(self, values: Tensor) -> Tensor:
        """(N, C) -> (L, P * C); what hangs over is zero."""
        padded = torch.cat([values, values.new_zeros(1, values.shape[1])])
        return padded[self.cells].flatten(1)

    def unpatchify(self, tokens: Tensor) -> Tensor:
        """(L, P * C) -> (N, C): the inverse of `patchify`."""
        return tokens.reshape(self.cells.numel(), -1)[self.slots]


def pack(grids: tuple[Grid, ...], patch: Grid, device: torch.device) -> Packing:
    """Lay out the tokens of clips with these latent grids (t, h, w)."""
    sizes = np.array([np.prod(grid) for grid in grids])
    starts = np.concatenate([[0], sizes.cumsum()])
    num_cells = int(starts[-1])
    patches = [_patches(grid, patch) for grid in grids]
    order = sorted(range(len(grids)), key=lambda i: (len(patches[i]), grids[i]))
    cells = np.concatenate([np.where(patches[i] < 0, num_cells, patches[i] + starts[i]) for i in order])
    clip = np.repeat(order, [len(patches[i]) for i in order])
    slots = np.empty(num_cells + 1, dtype=np.int64)
    slots[cells.ravel()] = np.arange(cells.size)
    runs = [(length, len(list(run))) for length, run in groupby(len(patches[i]) for i in order)]

    def on_device(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    return Packing(
        on_device(cells),
        on_device(slots[:-1]),
        on_device(clip),
        on_device(np.array(order)),
        tuple((count, length) for length, count in runs),
        tuple(_counts(grids[i], patch) for i in order),
    )


@lru_cache(maxsize=1024)
def _patches(grid: Grid, patch: Grid) -> np.ndarray:
    """(tokens, P) cell indices within one clip, -1 outside of it."""
    counts = _counts(grid, patch)
    cells = np.full([n * p for n, p in zip(counts, patch, strict=True)], -1, dtype=np.int64)
    cells[: grid[0], : grid[1], : grid[2]] = np.arange(np.prod(grid)).reshape(grid)
    (t, h, w), (pt, ph, pw) = counts, patch
    return cells.reshape(t, pt, h, ph, w, pw).transpose(0, 2, 4, 1, 3, 5).reshape(t * h * w, pt * ph * pw)


def _counts(grid: Grid, patch: Grid) -> Grid:
    """Tokens of a grid of cells; what hangs over counts."""
    t, h, w = (-(-n // p) for n, p in zip(grid, patch, strict=True))
    return t, h, w
