"""Which tokens a token attends to where it is not all of its clip: windows, and blocks of frames that look back.

Both split the tokens of a clip into sets that attend as one, to themselves or to earlier sets too. So the time and
memory of attention grow with the clip's duration, not with its square.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from kinema_dit.packing import Grid, Packing

#: The tokens of one clip that attend together, and those that they attend to.
_Sets = tuple[tuple[np.ndarray, np.ndarray], ...]


@dataclass(frozen=True)
class Windows:
    """Tokens attend within boxes of the token grid; at the grid's end boxes are smaller.

    Attributes:
        size: tokens (in time, rows, columns).
        shift: the boxes begin half a box before the grid, so that their borders are elsewhere than without.
    """

    size: Grid
    shift: bool = False

    def sets(self, grid: Grid) -> _Sets:
        """The boxes of a clip of `grid` tokens."""
        return _windows(grid, self.size, self.shift)


@dataclass(frozen=True)
class CausalBlocks:
    """Tokens attend to all of their own block of frames and of some blocks before it, never to later ones.

    Attributes:
        frames: token frames a block.
        context: earlier blocks that are seen.
    """

    frames: int
    context: int

    def sets(self, grid: Grid) -> _Sets:
        """The blocks of a clip of `grid` tokens."""
        return _causal_blocks(grid, self.frames, self.context)


@dataclass(frozen=True)
class Neighbourhoods:
    """The sets of a whole pack.

    Attributes:
        groups: indices of queries (G, n) and of the keys that they see (G, m); sets of equal sizes stand together.
        places: (L,) where each token's result stands among those of all groups one after the other.
    """

    groups: tuple[tuple[Tensor, Tensor], ...]
    places: Tensor


def neighbourhoods(packing: Packing, rule: Windows | CausalBlocks) -> Neighbourhoods:
    """The sets of all clips of a pack."""
    by_size: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = {}
    start = 0
    for grid in packing.grids:
        for queries, keys in rule.sets(grid):
            by_size.setdefault((len(queries), len(keys)), []).append((queries + start, keys + start))
        start += int(np.prod(grid))
    stacked = [tuple(np.stack(part) for part in zip(*sets, strict=True)) for _, sets in sorted(by_size.items())]
    order = np.concatenate([queries.ravel() for queries, _ in stacked])
    places = np.empty_like(order)
    places[order] = np.arange(len(order))

    def on_device(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(packing.cells.device, non_blocking=True)

    return Neighbourhoods(tuple((on_device(q), on_device(k)) for q, k in stacked), on_device(places))


@lru_cache(maxsize=1024)
def _windows(grid: Grid, size: Grid, shift: bool) -> _Sets:
    tokens = np.arange(np.prod(grid)).reshape(grid)
    times, rows, columns = (_cuts(n, step, shift) for n, step in zip(grid, size, strict=True))
    boxes = [tokens[t, y, x].ravel() for t in times for y in rows for x in columns]
    return tuple((box, box) for box in boxes)


@lru_cache(maxsize=1024)
def _causal_blocks(grid: Grid, frames: int, context: int) -> _Sets:
    tokens = np.arange(np.prod(grid)).reshape(grid[0], -1)
    return tuple(
        (tokens[start : start + frames].ravel(), tokens[max(0, start - context * frames) : start + frames].ravel())
        for start in range(0, grid[0], frames)
    )


def _cuts(length: int, step: int, shift: bool) -> Sequence[slice]:
    """Slices of `step`, the first half as long where they are shifted."""
    first = step // 2 if shift and step < length else 0
    borders = [0, *range(first or step, length, step), length]
    return [slice(low, high) for low, high in zip(borders, borders[1:], strict=False)]
