"""Batches planned an epoch ahead: a pure function of (seed, epoch, step, rank, world).

A plan is made of the shuffled clips alone and knows nothing of ranks, so one rank or eight see the same global batches;
ranks then share each step's clips. `budget` and `packs` hold the ways to plan.
"""

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from kinema_core import ClipInfo
from numpy.typing import NDArray
from torch.utils.data import Sampler

Indices = NDArray[np.int64]
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


class Plan(NamedTuple):
    """An epoch: step s holds the clips order[bounds[s] : bounds[s + 1]]; bounds is (steps + 1,).

    `parts` are bounds of finer units that steps consist of, where there are any.
    """

    order: Indices
    bounds: Indices
    parts: Indices | None = None


class PlannedSampler(Sampler[list[int]], ABC):
    """A batch sampler: an endless stream of lists of `Draw`s, one list a step, for `DataLoader(batch_sampler=...)`.

    Iterating does not move the position in the run, since a loader fetches ahead of the training: call `advance` after
    every step that was taken, and `state_dict` then says where to resume.

    Args:
        tokens: cost of each clip, at least 1.
        sizes: what tells sizes apart, one a clip, such as (frames, height, width).
        seed: of the order.
        rank: this process.
        world: number of processes; Lightning: pass `use_distributed_sampler=False` to the Trainer.
        fingerprint: names the dataset; a state saved on another is refused. By default a hash of tokens and sizes.

    Raises:
        ValueError: no clips, other numbers of tokens than sizes, or a rank outside the world.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        sizes: Sequence[Hashable],
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        fingerprint: str | None = None,
    ) -> None:
        self.tokens = np.asarray(tokens, dtype=np.int64)
        if len(self.tokens) != len(sizes) or len(self.tokens) == 0 or self.tokens.min() < 1:
            raise ValueError(f"{len(sizes)} sizes and {len(self.tokens)} token counts: need one each a clip, from 1 on")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not in a world of {world}")
        self.seed, self.rank, self.world = seed, rank, world
        self.numbers: dict[Hashable, int] = {}
        #: The number of each clip's size, in order of first appearance.
        self.groups = np.array([self.numbers.setdefault(size, len(self.numbers)) for size in sizes], dtype=np.int64)
        self.fingerprint = fingerprint or _fingerprint(self.tokens.tolist(), self.groups.tolist())
        self.epoch = 0
        self.step = 0
        self._plans: OrderedDict[int, Plan] = OrderedDict()

    @abstractmethod
    def batch(self, epoch: int, step: int) -> list[int]:
        """This rank's part of `global_batch(epoch, step)`; all ranks have about the same number of tokens."""

    @abstractmethod
    def planned(self, random: np.random.Generator) -> Plan:
        """The plan of an epoch."""

    @classmethod
    def of(cls, dataset: Any, count_tokens: Callable[[ClipInfo], int], **options: Any) -> Self:
        """A sampler over whatever has `len` and `info(index)`; `options` as the constructor's.

        Sizes are (frames, height, width), the fingerprint is that of ids and sizes.
        """
        infos = [dataset.info(i) for i in range(len(dataset))]
        sizes = [(info.frames, info.height, info.width) for info in infos]
        return cls(
            [count_tokens(info) for info in infos],
            sizes,
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

    def _plan(self, epoch: int) -> Plan:
        if epoch not in self._plans:
            self._plans[epoch] = self.planned(np.random.Generator(np.random.Philox(key=[self.seed, epoch])))
            if len(self._plans) > _PLANS_KEPT:
                self._plans.popitem(last=False)
        return self._plans[epoch]


def _fingerprint(*parts: Sequence[Any]) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
