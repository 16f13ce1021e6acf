"""The data module of every training: batches filled to a budget, the same for any number of ranks, resumable."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
from kinema_core import Clip, ClipInfo
from kinema_data import (
    BadClip,
    Batch,
    PackSampler,
    PlannedSampler,
    ReplacingDataset,
    SkipLog,
    TokenBudgetSampler,
    collate,
    to_float,
    to_uint8,
)
from torch.utils.data import DataLoader

from kinema.checkpointing import BatchPosition
from kinema.errors import UserError

Size = tuple[int, int, int]


def pixels(info: ClipInfo) -> int:
    """The cost of a clip as its number of pixels, all frames together."""
    return info.frames * info.height * info.width


class BudgetDataModule(pl.LightningDataModule):
    """Endless batches of clips (or of cached latents) of at most `budget` in cost over all ranks.

    The trainer needs `use_distributed_sampler=False`: the sampler gives each rank its own share.

    Args:
        dataset: has `len`, `info(i)` and `[i]`: a `ClipDataset`, or `CachedLatents`.
        cost: of a clip, at least 1.
        budget: of a step, over all ranks.
        assemble: makes the module's batch of the clips; None: a list.
        seed: of the order.
        sizes_per_step: how many sizes a step holds.
        weights: how often clips of a size, (frames, height, width) in pixels, are drawn an epoch; 1 where not given.
        packs: 0, or how many packs of equal cost a step consists of, whatever their sizes (see `PackSampler`); ranks
            share them evenly. `sizes_per_step` and `weights` do not go with it.
        quadratic: of the packs, how much attention costs.
        num_workers: processes that read ahead.
        position: the trainer's callback that knows how many batches were taken; needed to resume.
    """

    def __init__(
        self,
        dataset: Any,
        cost: Callable[[ClipInfo], int],
        *,
        budget: int,
        assemble: Callable[[Sequence[Any]], Any] | None = None,
        seed: int = 0,
        sizes_per_step: int = 2,
        weights: Mapping[Size, float] | None = None,
        packs: int = 0,
        quadratic: float = 0.0,
        num_workers: int = 0,
        position: BatchPosition | None = None,
    ) -> None:
        super().__init__()
        self.dataset, self.cost, self.budget, self.assemble = dataset, cost, budget, assemble
        self.seed, self.options = seed, {"sizes_per_step": sizes_per_step, "weights": weights}
        self.packs, self.quadratic = packs, quadratic
        if packs and weights:
            raise ValueError("packs take every clip once an epoch: weights of sizes do not go with them")
        self.num_workers = num_workers
        self.position = position or BatchPosition()
        self.skips = SkipLog()

    def train_dataloader(self) -> DataLoader[Batch]:
        """This rank's batches from the position on."""
        sampler = self._sampler()
        sampler.advance(self.position.batches)
        return DataLoader(
            ReplacingDataset(self.dataset, sampler),
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def _sampler(self) -> PlannedSampler:
        ranks = {"rank": self.trainer.global_rank, "world": self.trainer.world_size} if self.trainer else {}
        shared = {"seed": self.seed, **ranks}
        if not self.packs:
            return TokenBudgetSampler.of(self.dataset, self.cost, budget=self.budget, **self.options, **shared)
        length = self.budget // self.packs
        options = {"length": length, "packs": self.packs, "quadratic": self.quadratic}
        return PackSampler.of(self.dataset, self.cost, **options, **shared)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Any:
        """Count what was skipped, and assemble."""
        clips = self.skips.take(batch)
        return self.assemble(clips) if self.assemble else clips


class Remembered:
    """A dataset whose clips are decoded once and kept as bytes, for sets that fit in memory.

    Args:
        dataset: a `ClipDataset`.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._clips: dict[int, Clip] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def info(self, index: int) -> ClipInfo:
        """As the dataset's."""
        return self.dataset.info(index)

    def __getitem__(self, index: int) -> Clip:
        """The clip, with values on the grid of 8-bit pixels that it was stored with."""
        index = int(index)
        if index not in self._clips:
            clip = in_range(self.dataset[index])
            self._clips[index] = replace(clip, video=to_uint8(clip.video))
        clip = self._clips[index]
        return replace(clip, video=to_float(clip.video))


def in_range(clip: Clip) -> Clip:
    """The clip, if its values are pixels in [-1, 1].

    Raises:
        UserError: a dataset gave something else, such as 0 to 255.
    """
    low, high = (value.item() for value in clip.video.aminmax())
    if not (low >= -1.001 and high <= 1.001):
        raise UserError(f"clip {clip.id!r} has values from {low:.4g} to {high:.4g}; a dataset gives pixels in [-1, 1]")
    return clip


def readable(dataset: Any, count: int) -> list[Clip]:
    """The first `count` clips that can be read; the others are skipped, as in training."""
    clips: list[Clip] = []
    for i in range(len(dataset)):
        if len(clips) == count:
            break
        with suppress(BadClip):
            clips.append(in_range(dataset[i]))
    return clips
