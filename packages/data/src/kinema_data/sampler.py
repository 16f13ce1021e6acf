"""Batches filled to a budget of tokens, whatever the sizes: a pure function of (seed, epoch, step, rank, world).

How an epoch is planned. Clips are shuffled; those of one size are cut into blocks of at most budget / sizes_per_step
tokens; what is left of each size is mixed into blocks of the same weight; the blocks are shuffled, and each step takes
sizes_per_step of them. So a step holds few sizes (fewer run faster, since clips of equal length share their attention
call), is filled to within about one clip a block, and every clip comes once an epoch, except the last unfilled step's.
Ranks then share each step's clips. The plan knows nothing of them, so one rank or eight see the same global batches.
"""

import hashlib
import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from kinema_core import ClipInfo
from numpy.typing import NDArray
from torch.utils.data import Sampler

_Indices = NDArray[np.int64]
_PLANS_KEPT = 2  # the current epoch and the next, which prefetching enters early


class Draw(int):
    """An index into the dataset that also knows where it stands in the run: epoch, step, and slot in the global batch.

    A plain dataset takes it as the index it is; `ReplacingDataset` draws the replacement of a bad clip from the rest.
    """

    epoch: int
    step: int
    slot: int

    def __new__(cls, index: int, epoch: int = 0, step: int = 0, slot: int = 0) -> "Draw":
        draw = super().__new__(cls, index)
        draw.epoch, draw.step, draw.slot = epoch, step, slot
        return draw


class _Plan(NamedTuple):
    order: _Indices  # clip indices in the order of the epoch
    bounds: _Indices  # (steps + 1,): step s holds order[bounds[s] : bounds[s + 1]]


class TokenBudgetSampler(Sampler[list[int]]):
    """A batch sampler: an endless stream of lists of `Draw`s, one list a step, for `DataLoader(batch_sampler=...)`.

    Iterating does not move the position in the run, since a loader fetches ahead of the training: call `advance` after
    every step that was taken, and `state_dict` then says where to resume.

    Args:
        tokens: cost of each clip, at least 1.
        sizes: what tells sizes apart, one a clip, such as (frames, height, width).
        budget: tokens of a step over all ranks.
        seed: of the order.
        rank: this process.
        world: number of processes; Lightning: pass `use_distributed_sampler=False` to the Trainer.
        sizes_per_step: how many sizes a step holds (leftovers aside). 1 is fastest; more mix better.
        weights: how often a clip of a size is drawn an epoch, {size: times}, 1 where not given. 0.5 draws a random half
            of them, other ones each epoch; 2 draws each twice.
        fingerprint: names the dataset; a state saved on another is refused. By default a hash of tokens and sizes.

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
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        sizes_per_step: int = 2,
        weights: Mapping[Hashable, float] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.tokens = np.asarray(tokens, dtype=np.int64)
        if len(self.tokens) != len(sizes) or len(self.tokens) == 0 or self.tokens.min() < 1:
            raise ValueError(f"{len(sizes)} sizes and {len(self.tokens)} token counts: need one each a clip, from 1 on")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not in a world of {world}")
        if sizes_per_step < 1:
            raise ValueError(f"sizes_per_step {sizes_per_step} has to be at least 1")
        largest = int(self.tokens.max())
        # Twice for several ranks: then no way of filling a step leaves a rank without a clip (see _plan).
        least = largest if world == 1 else 2 * world * largest
        if budget < least:
            raise ValueError(
                f"a budget of {budget} tokens is too small: the largest clip has {largest}, so {world} ranks need "
                f"{least} or more"
            )
        self.budget, self.seed, self.rank, self.world = budget, seed, rank, world
        self._blocks_per_step = sizes_per_step
        numbers: dict[Hashable, int] = {}
        #: The number of each clip's size, in order of first appearance.
        self.groups = np.array([numbers.setdefault(size, len(numbers)) for size in sizes], dtype=np.int64)
        unknown = [size for size in weights or {} if size not in numbers]
        if unknown:
            raise ValueError(f"weights of sizes that no clip has: {unknown}; there are {list(numbers)}")
        self._weights = [float((weights or {}).get(size, 1.0)) for size in numbers]
        if min(self._weights) < 0 or max(self._weights) == 0:
            raise ValueError(f"weights have to be at least 0 and not all 0, not {weights}")
        self.fingerprint = fingerprint or _fingerprint(self.tokens.tolist(), self.groups.tolist())
        self.epoch = 0
        self.step = 0
        self._plans: OrderedDict[int, _Plan] = OrderedDict()
        if len(self._plan(0).order) < world:
            raise ValueError(f"an epoch of {len(self._plan(0).order)} clips does not reach {world} ranks")

    @classmethod
    def of(
        cls, dataset: Any, count_tokens: Callable[[ClipInfo], int], *, budget: int, **options: Any
    ) -> "TokenBudgetSampler":
        """A sampler over whatever has `len` and `info(index)`; `options` as the constructor's.

        Sizes are (frames, height, width), the fingerprint is that of ids and sizes.
        """
        infos = [dataset.info(i) for i in range(len(dataset))]
        sizes = [(info.frames, info.height, info.width) for info in infos]
        return cls(
            [count_tokens(info) for info in infos],
            sizes,
            budget=budget,
            fingerprint=_fingerprint([info.id for info in infos], sizes),
            **options,
        )

    def __iter__(self) -> Iterator[list[int]]:
        """This rank's batches from the current position on, without end."""
        step = self.step
        for epoch in itertools.count(self.epoch):
            for at in range(step, self.steps_in(epoch)):
                yield self.batch(epoch, at)
            step = 0

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

    def global_batch(self, epoch: int, step: int) -> list[int]:
        """All clips of a step, as `Draw`s in slot order.

        Raises:
            IndexError: the epoch has no such step.
        """
        plan = self._plan(epoch)
        if not 0 <= step < len(plan.bounds) - 1:
            raise IndexError(f"epoch {epoch} has steps 0 to {len(plan.bounds) - 2}, not {step}")
        indices = plan.order[plan.bounds[step] : plan.bounds[step + 1]].tolist()
        return [Draw(index, epoch, step, slot) for slot, index in enumerate(indices)]

    def steps_in(self, epoch: int) -> int:
        """The number of steps of an epoch; leftovers of many sizes may make epochs differ by a step or two."""
        return len(self._plan(epoch).bounds) - 1

    def advance(self, steps: int = 1) -> None:
        """Move the position on, after steps that were taken."""
        self.step += steps
        while self.step >= (length := self.steps_in(self.epoch)):
            self.step -= length
            self.epoch += 1

    def state_dict(self) -> dict[str, Any]:
        """The next step to take: plain JSON, the same on all ranks, and good for another number of them."""
        return {"seed": self.seed, "epoch": self.epoch, "step": self.step, "fingerprint": self.fingerprint}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken. The seed is the saved one.

        Raises:
            ValueError: the state is of another dataset.
        """
        if state["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"the saved position is of another dataset ({state['fingerprint']}, here {self.fingerprint}): resume "
                "with the same clips, or start without the saved position"
            )
        self.seed, self.epoch, self.step = int(state["seed"]), int(state["epoch"]), int(state["step"])
        self._plans.clear()
        self.advance(0)

    def _plan(self, epoch: int) -> _Plan:
        if epoch not in self._plans:
            self._plans[epoch] = self._planned(epoch)
            if len(self._plans) > _PLANS_KEPT:
                self._plans.popitem(last=False)
        return self._plans[epoch]

    def _planned(self, epoch: int) -> _Plan:
        random = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        share = max(1, self.budget // self._blocks_per_step)
        blocks: list[_Indices] = []
        leftovers: list[_Indices] = []
        for group, weight in enumerate(self._weights):
            clips = _repeated(np.flatnonzero(self.groups == group), weight, random)
            # Clips of a size may differ in tokens, if whoever counts them wishes so: the largest counts for all.
            most = int(self.tokens[clips].max(initial=1))
            length = max(1, share // most)
            whole = len(clips) - len(clips) % length
            blocks += np.split(clips[:whole], range(length, whole, length)) if whole else []
            leftovers.append(clips[whole:])
        mixed = random.permutation(np.concatenate(leftovers))
        mixed_blocks = [mixed[a:b] for a, b in itertools.pairwise(_filled(self.tokens[mixed], share))]
        last = mixed_blocks.pop() if mixed_blocks else None  # may be light, so it goes to the end
        blocks += mixed_blocks
        blocks = [blocks[i] for i in random.permutation(len(blocks))] + ([] if last is None else [last])
        weights = np.array([self.tokens[block].sum() for block in blocks])
        steps = _filled(weights, self.budget, self._blocks_per_step)
        if len(steps) > 2 and 2 * weights[steps[-2] :].sum() < self.budget:
            steps = steps[:-1]
        ends = np.concatenate([[0], np.cumsum([len(block) for block in blocks])]).astype(np.int64)
        return _Plan(np.concatenate(blocks), ends[steps])


def _repeated(clips: _Indices, times: float, random: np.random.Generator) -> _Indices:
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


def _fingerprint(*parts: Sequence[Any]) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
