"""Steps of packs that all cost the same, so that no rank waits for another.

How an epoch is planned. The shuffled clips are taken a window at a time, largest first, and each goes into the first
pack that still has room for it (first-fit decreasing: Johnson 1973, at most 11/9 of the least number of packs). What
lies in packs that are not yet full goes to the next window, once. The packs are shuffled, and each step takes some of
them; up to packs - 1 of them are left out.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinema_data.sampler import Indices, Plan, PlannedSampler

#: Clips that are packed together: more fill better, and take longer to plan.
WINDOW = 1024
#: Part of the budget above which a pack is full.
FULL = 0.97


class PackSampler(PlannedSampler):
    """Steps of `packs` packs, each of at most `length` tokens and of about the same cost. See `PlannedSampler`.

    A clip of L tokens costs L + quadratic L^2, the second part being its attention. A pack holds clips of any sizes, as
    many as fit in its length and in the cost `budget`; every rank takes as many packs of a step.

    Args:
        tokens: of each clip, at least 1.
        sizes: what tells sizes apart, one a clip.
        length: most tokens of a pack.
        packs: of a step, over all ranks; a multiple of their number.
        quadratic: b / a of the cost a L + b L^2. In a transformer of width D whose matrix products take 24 D^2
            operations a token and block, and attention 4 D a pair of tokens, it is 1 / (6 D).
        budget: most cost of a pack. None: without a quadratic part `length`; else four fifths of what `length` tokens
            cost on average, so that the cost binds and not the length.
        options: `seed`, `rank`, `world` and `fingerprint` of `PlannedSampler`.

    Raises:
        ValueError: the largest clip does not fit in a pack, packs that ranks cannot share evenly, or too few clips for
            a step.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        sizes: Sequence[Hashable],
        *,
        length: int,
        packs: int = 1,
        quadratic: float = 0.0,
        budget: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(tokens, sizes, **options)
        if packs < 1 or packs % self.world:
            raise ValueError(f"{packs} packs a step cannot be shared evenly by {self.world} ranks")
        if quadratic < 0:
            raise ValueError(f"quadratic is {quadratic}; it is at least 0")
        self.length, self.packs, self.quadratic = length, packs, quadratic
        self.cost = self.tokens + quadratic * self.tokens.astype(np.float64) ** 2
        mean = length * self.cost.sum() / self.tokens.sum()
        self.budget = float(budget or (0.8 * mean if quadratic else length))
        largest = int(self.tokens.argmax())
        if self.tokens[largest] > length or self.cost[largest] > self.budget:
            raise ValueError(
                f"a pack of {length} tokens and a cost of {self.budget:.0f} is too small: the largest clip has "
                f"{self.tokens[largest]} and costs {self.cost[largest]:.0f}"
            )
        if self.steps_in(0) < 1:
            raise ValueError(f"an epoch of {len(self.tokens)} clips does not fill {packs} packs of {length} tokens")

    def batch(self, epoch: int, step: int) -> list[int]:
        """This rank's packs of `global_batch(epoch, step)`."""
        whole = self.global_batch(epoch, step)
        bounds = self._plan(epoch).parts
        first = step * self.packs
        starts = bounds[first : first + self.packs + 1] - bounds[first]
        share = self.packs // self.world
        low, high = starts[self.rank * share], starts[(self.rank + 1) * share]
        return whole[low:high]

    def planned(self, random: np.random.Generator) -> Plan:
        """See the top of the file."""
        order = random.permutation(len(self.tokens))
        closed: list[Indices] = []
        waiting: Indices = order[:0]
        for at in range(0, len(order), WINDOW):
            packs = self._packed(np.concatenate([waiting, order[at : at + WINDOW]]))
            done = [self._is_full(pack) or np.isin(pack, waiting).any() for pack in packs]
            closed += [pack for pack, is_done in zip(packs, done, strict=True) if is_done]
            waiting = np.concatenate([order[:0], *(p for p, is_done in zip(packs, done, strict=True) if not is_done)])
        closed += self._packed(waiting)
        chosen = [closed[i] for i in random.permutation(len(closed))]
        chosen = chosen[: len(chosen) - len(chosen) % self.packs]
        bounds = np.concatenate([[0], np.cumsum([len(pack) for pack in chosen])]).astype(np.int64)
        return Plan(np.concatenate([order[:0], *chosen]), bounds[:: self.packs], bounds)

    def _is_full(self, pack: Indices) -> bool:
        return max(self.cost[pack].sum() / self.budget, self.tokens[pack].sum() / self.length) >= FULL

    def _packed(self, clips: Indices) -> list[Indices]:
        """First-fit decreasing."""
        room_for_tokens: NDArray[np.float64] = np.full(len(clips), float(self.length))
        room_for_cost: NDArray[np.float64] = np.full(len(clips), self.budget)
        packs: list[list[int]] = []
        for clip in clips[np.argsort(-self.cost[clips], kind="stable")].tolist():
            used = len(packs) + 1  # one more is always empty
            fits = (room_for_tokens[:used] >= self.tokens[clip]) & (room_for_cost[:used] >= self.cost[clip])
            at = int(fits.argmax())
            if at == len(packs):
                packs.append([])
            packs[at].append(clip)
            room_for_tokens[at] -= self.tokens[clip]
            room_for_cost[at] -= self.cost[clip]
        return [np.array(pack) for pack in packs]
