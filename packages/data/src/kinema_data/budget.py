"""Batches filled to a budget of tokens, whatever the sizes.

How an epoch is planned. Clips are shuffled; those of one size are cut into blocks of at most budget / sizes_per_step
tokens; what is left of each size is mixed into blocks of the same weight; the blocks are shuffled, and each step takes
sizes_per_step of them. So a step holds few sizes (fewer run faster, since clips of equal length share their attention
call), is filled to within about one clip a block, and every clip comes once an epoch, except the last unfilled step's.
Ranks then share each step's clips.
"""

import heapq
import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinema_data.sampler import Indices, Plan, PlannedSampler


class TokenBudgetSampler(PlannedSampler):
    """Steps of at most `budget` tokens, of few sizes each. See `PlannedSampler` for what it shares with others.

    Args:
        tokens: cost of each clip, at least 1.
        sizes: what tells sizes apart, one a clip, such as (frames, height, width).
        budget: tokens of a step over all ranks.
        sizes_per_step: how many sizes a step holds (leftovers aside). 1 is fastest; more mix better.
        weights: how often a clip of a size is drawn an epoch, {size: times}, 1 where not given. 0.5 draws a random half
            of them, other ones each epoch; 2 draws each twice.
        options: `seed`, `rank`, `world` and `fingerprint` of `PlannedSampler`.

    Raises:
        ValueError: no clips, a budget too small for the largest clip on every rank, unknown sizes in `weights`, fewer
            clips than ranks, or a rank outside the world.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        sizes: Sequence[Hashable],
        *,
        budget: int,
        sizes_per_step: int = 2,
        weights: Mapping[Hashable, float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(tokens, sizes, **options)
        if sizes_per_step < 1:
            raise ValueError(f"sizes_per_step {sizes_per_step} has to be at least 1")
        largest, world = int(self.tokens.max()), self.world
        # Twice for several ranks: then no way of filling a step leaves a rank without a clip (see `planned`).
        least = largest if world == 1 else 2 * world * largest
        if budget < least:
            raise ValueError(
                f"a budget of {budget} tokens is too small: the largest clip has {largest}, so {world} ranks need "
                f"{least} or more"
            )
        self.budget = budget
        self._blocks_per_step = sizes_per_step
        unknown = [size for size in weights or {} if size not in self.numbers]
        if unknown:
            raise ValueError(f"weights of sizes that no clip has: {unknown}; there are {list(self.numbers)}")
        self._weights = [float((weights or {}).get(size, 1.0)) for size in self.numbers]
        if min(self._weights) < 0 or max(self._weights) == 0:
            raise ValueError(f"weights have to be at least 0 and not all 0, not {weights}")
        if len(self._plan(0).order) < world:
            raise ValueError(f"an epoch of {len(self._plan(0).order)} clips does not reach {world} ranks")

    def batch(self, epoch: int, step: int) -> list[int]:
        """This rank's part of `global_batch(epoch, step)`; all ranks have about the same number of tokens."""
        whole = self.global_batch(epoch, step)
        if self.world == 1:
            return whole
        # Largest first, to the rank that has least so far (Graham, 1969: at most 4/3 of the best split).
        loads = [(0, rank) for rank in range(self.world)]
        mine: list[int] = []
        for draw in sorted(whole, key=lambda draw: -self.tokens[draw]):
            load, rank = heapq.heappop(loads)
            if rank == self.rank:
                mine.append(draw)
            heapq.heappush(loads, (load + int(self.tokens[draw]), rank))
        return mine

    def planned(self, random: np.random.Generator) -> Plan:
        """See the top of the file."""
        share = max(1, self.budget // self._blocks_per_step)
        blocks: list[Indices] = []
        leftovers: list[Indices] = []
        for group, weight in enumerate(self._weights):
            clips = _repeated(np.flatnonzero(self.groups == group), weight, random)
            # Clips of a size may differ in tokens, if whoever counts them wishes so: the largest counts for all.
            most = int(self.tokens[clips].max(initial=1))
            length = max(1, share // most)
            whole = len(clips) - len(clips) % length
            blocks += np.split(clips[:whole], range(length, whole, length)) if whole else []
            leftovers.append(clips[whole:])
        loose = np.concatenate(leftovers)
        if blocks and self.tokens[loose].sum() < share:
            # Else the same clips would be the last block of every epoch, which may be left out.
            loose = np.concatenate([loose, blocks.pop(random.integers(len(blocks)))])
        mixed = random.permutation(loose)
        mixed_blocks = [mixed[a:b] for a, b in itertools.pairwise(_filled(self.tokens[mixed], share))]
        last = mixed_blocks.pop() if mixed_blocks else None  # may be light, so it goes to the end
        blocks += mixed_blocks
        blocks = [blocks[i] for i in random.permutation(len(blocks))] + ([] if last is None else [last])
        weights = np.array([self.tokens[block].sum() for block in blocks])
        steps = _filled(weights, self.budget, self._blocks_per_step)
        if len(steps) > 2 and 2 * weights[steps[-2] :].sum() < self.budget:
            steps = steps[:-1]
        ends = np.concatenate([[0], np.cumsum([len(block) for block in blocks])]).astype(np.int64)
        return Plan(np.concatenate(blocks), ends[steps])


def _repeated(clips: Indices, times: float, random: np.random.Generator) -> Indices:
    """Each clip floor(times) times, each time in a new order, and a random part of them once more."""
    whole, rest = divmod(round(times * len(clips)), len(clips))
    passes = [random.permutation(clips) for _ in range(whole + 1)]
    return np.concatenate([*passes[:-1], passes[-1][:rest]])


def _filled(weights: NDArray[np.int64], budget: int, most: int | None = None) -> list[int]:
    """Bounds of runs that are filled up in order: as many items as fit in the budget, at most `most`, at least one."""
    bounds, load = [0], 0
    for i, weight in enumerate(weights.tolist()):
        if i > bounds[-1] and (load + weight > budget or i - bounds[-1] == most):
            bounds.append(i)
            load = 0
        load += weight
    return [*bounds, len(weights)] if len(weights) else bounds
