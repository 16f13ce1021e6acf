"""From a dataset and a sampler to batches of clips; a clip that cannot be read is replaced, told and counted.

sampler = TokenBudgetSampler.of(dataset, count_tokens, budget=4096)
loader = DataLoader(ReplacingDataset(dataset, sampler), batch_sampler=sampler, collate_fn=collate)
skips = SkipLog()
for batch in loader:
    clips = skips.take(batch)
    ...
    sampler.advance()
"""

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from kinema_data.files import BadClip
from kinema_data.sampler import Draw, PlannedSampler

_MOST_TRIES = 4


class Skip(NamedTuple):
    """A clip that could not be read: its id, `BadClip.code`, and the message."""

    id: str
    code: str
    message: str


class Batch(NamedTuple):
    """A rank's clips of a step, and what was skipped to get them."""

    clips: list[Any]
    skips: tuple[Skip, ...]


class ReplacingDataset(Dataset[tuple[Any, tuple[Skip, ...]]]):
    """A dataset whose bad clips are replaced by others of the same size, the same ones in every run.

    The replacement is a function of (seed, epoch, step, slot, try), so it depends on neither rank nor worker. Where no
    other clip has the size, any with no more tokens will do. Only `BadClip` counts; other errors are bugs and rise.

    Args:
        dataset: `dataset[i]` is a clip or raises `BadClip`; `dataset.info(i).id` names it.
        sampler: the sampler that draws from it; gives sizes, tokens and seed.
    """

    def __init__(self, dataset: Any, sampler: PlannedSampler) -> None:
        self._dataset = dataset
        self._sampler = sampler

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, draw: int) -> tuple[Any, tuple[Skip, ...]]:
        """The clip drawn or its replacement, and what was skipped.

        Raises:
            BadClip: neither the clip nor four replacements can be read.
        """
        draw = draw if isinstance(draw, Draw) else Draw(draw)
        tried: list[int] = [int(draw)]
        skips: list[Skip] = []
        while True:
            try:
                return self._dataset[tried[-1]], tuple(skips)
            except BadClip as error:
                skips.append(Skip(self._dataset.info(tried[-1]).id, error.code, str(error)))
                if len(tried) > _MOST_TRIES:
                    raise
                other = self._replacement(draw, tried)
                if other is None:
                    raise
                tried.append(other)

    def _replacement(self, draw: Draw, tried: Sequence[int]) -> int | None:
        groups, tokens = self._sampler.groups, self._sampler.tokens
        untried = np.ones(len(tokens), dtype=bool)
        untried[list(tried)] = False
        same_size = np.flatnonzero(untried & (groups == groups[draw]))
        pool = same_size if len(same_size) else np.flatnonzero(untried & (tokens <= tokens[draw]))
        if not len(pool):
            return None
        key = f"{self._sampler.seed},{draw.epoch},{draw.step},{draw.slot},{len(tried)}".encode()
        return int(pool[int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") % len(pool)])


def collate(samples: Sequence[tuple[Any, tuple[Skip, ...]]]) -> Batch:
    """The samples of a `ReplacingDataset` as a `Batch`; clips of any sizes stay a list."""
    return Batch([clip for clip, _ in samples], tuple(skip for _, skips in samples for skip in skips))


class SkipLog:
    """Counts what batches had to skip, warns once a clip, and stops when too much of the data is bad.

    Belongs to the process that trains, not to the loader's workers.

    Args:
        most: stop when the bad clips are more than this fraction of the clips drawn so far ...
        floor: ... and more than this many, so that a small set may hold a few.

    Attributes:
        skipped: the bad clips, each once.
        count: how often one was drawn.
        drawn: clips drawn so far.
    """

    def __init__(self, *, most: float = 0.01, floor: int = 10) -> None:
        self.most = most
        self.floor = floor
        self.skipped: dict[str, Skip] = {}
        self.count = 0
        self.drawn = 0

    def take(self, batch: Batch) -> list[Any]:
        """The clips of a batch, after counting what it skipped.

        Raises:
            RuntimeError: too many clips are bad.
        """
        self.drawn += len(batch.clips)
        self.count += len(batch.skips)
        for skip in batch.skips:
            if skip.id not in self.skipped:
                self.skipped[skip.id] = skip
                warnings.warn(f"skipped clip {skip.id!r}: {skip.message}", stacklevel=2)
        if len(self.skipped) > max(self.floor, self.most * self.drawn):
            examples = "; ".join(skip.message for skip in list(self.skipped.values())[:3])
            raise RuntimeError(
                f"{len(self.skipped)} bad clips among {self.drawn} drawn, more than {self.most:.0%} and {self.floor}: "
                f"{examples}"
            )
        return batch.clips
