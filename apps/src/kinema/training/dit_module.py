"""The Lightning module that trains a diffusion transformer. Nothing in it knows which VAE, transformer, text encoder
or law it holds.
"""

from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import lightning.pytorch as pl
import torch
from kinema_core import Conditioning, Diffusion, DiT, Ragged, TextEncoder, seeded_generator, seeded_normal
from kinema_data import LatentClip
from torch import Tensor, nn
from torch.optim import Optimizer

from kinema.tasks import training_masks
from kinema.text_cache import CachedText
from kinema.training.optim import DEFAULT_OPTIMISER, MakeOptimiser, matrix_groups


@dataclass(frozen=True)
class LatentBatch:
    """One rank's share of a global batch.

    Attributes:
        latents: whitened latents of B clips of any sizes.
        ids: of the clips; noise depends on (seed, step, id) alone.
        captions: the captions of each clip by kind, of which one is drawn.
    """

    latents: Ragged
    ids: Sequence[str]
    captions: Sequence[Mapping[str, str]]

    @classmethod
    def of(cls, clips: Sequence[LatentClip]) -> "LatentBatch":
        """The batch of some clips of a cache."""
        latents = Ragged.from_clips([clip.latent for clip in clips], [clip.cell_rate for clip in clips])
        return cls(latents, [clip.id for clip in clips], [clip.captions for clip in clips])

    def to(self, device: torch.device | str | None = None) -> "LatentBatch":
        """The same with the latents on `device`."""
        return replace(self, latents=self.latents.to(device))


class DiTModule(pl.LightningModule):
    """Trains `dit`, and the text encoders that are trainable, under a noise law.

    Args:
        dit: the transformer.
        text: the text encoders, in the order of their streams. A frozen one's features are computed once a caption
            (pass a `CachedText` for one with features on disk).
        law: the noise law.
        caption_drop: share of captions replaced by "".
        caption_weights: how much more often one kind of caption is drawn than another; 1 where not given.
        keep_share: share of clips of which some cells are given.
        keep_weights: how much more often one kind of them is drawn than another (see `training_masks`).
        seed: of times, noise, masks and captions.
        optimiser: makes it of the groups of `matrix_groups`.
    """

    def __init__(
        self,
        dit: DiT,
        text: Sequence[TextEncoder | CachedText],
        law: Diffusion,
        *,
        caption_drop: float = 0.1,
        caption_weights: Mapping[str, float] | None = None,
        keep_share: float = 0.3,
        keep_weights: Mapping[str, float] | None = None,
        seed: int = 0,
        optimiser: MakeOptimiser = DEFAULT_OPTIMISER,
    ) -> None:
        super().__init__()
        self.dit = dit
        self.text = nn.ModuleList(_learning_or_cached(encoder) for encoder in text)
        self.law = law
        self.caption_drop, self.keep_share, self.seed = caption_drop, keep_share, seed
        self.caption_weights, self.keep_weights = dict(caption_weights or {}), dict(keep_weights or {})
        self.optimiser = optimiser

    def training_step(self, batch: LatentBatch, _: int) -> Tensor:
        """Encode the text, draw time, noise and mask, predict, weigh."""
        x0 = batch.latents
        captions = self._captions(batch)
        cond = Conditioning(tuple(encoder(captions) for encoder in self.text)).to(x0.values.device)
        t, noise = self._times(batch), self._noise(batch)
        kept = training_masks(
            x0,
            batch.ids,
            self.dit.patch,
            share=self.keep_share,
            weights=self.keep_weights,
            key=(self.seed, self.global_step),
        ).to(noise.device)

        loss = self.law.loss(self.dit, x0, noise, x0.per_cell(t), cond, ~kept)  # (B,)

        self.log("train/loss", loss.mean(), batch_size=len(loss))
        # Ranks may hold different numbers of clips, and DDP averages over ranks: every clip is to count the same.
        mean_clips = self.trainer.strategy.reduce(torch.tensor(float(len(loss)), device=loss.device), reduce_op="mean")
        return loss.sum() / mean_clips

    def _captions(self, batch: LatentBatch) -> list[str]:
        return [self._caption(*pair) for pair in zip(batch.ids, batch.captions, strict=True)]

    def _caption(self, clip: str, captions: Mapping[str, str]) -> str:
        drop, choice = torch.rand(2, generator=self._generator(clip, "caption")).tolist()
        if drop < self.caption_drop:
            return ""
        ends = list(accumulate(self.caption_weights.get(kind, 1.0) for kind in captions))
        return list(captions.values())[bisect(ends[:-1], choice * ends[-1])]

    def _times(self, batch: LatentBatch) -> Tensor:
        """(B,); each clip's own draw, so that it is the same on any rank."""
        lengths = torch.tensor(batch.latents.lengths)
        draws = [
            self.law.sample_times(lengths[i : i + 1], self._generator(clip, "time")) for i, clip in enumerate(batch.ids)
        ]
        return torch.cat(draws).to(batch.latents.values.device)

    def _noise(self, batch: LatentBatch) -> Tensor:
        """(N, C), each clip's by (seed, step, id)."""
        shape = batch.latents.values.shape
        noise = [
            seeded_normal((length, shape[1]), self.seed, self.global_step, clip)
            for length, clip in zip(batch.latents.lengths, batch.ids, strict=True)
        ]
        return torch.cat(noise).to(batch.latents.values)

    def _generator(self, clip: str, purpose: str) -> torch.Generator:
        return seeded_generator(self.seed, self.global_step, clip, purpose)

    def configure_optimizers(self) -> Optimizer:
        """Muon for matrices, AdamW for the rest; the transformer's and the trainable text encoders' alike."""
        return self.optimiser(matrix_groups(self, outer=self._outer_layers()))

    def _outer_layers(self) -> list[nn.Module]:
        """The transformer's first and last linear layers: those outside its blocks that are narrower than its blocks.

        Its modulation layers stand outside too, but turn features into features.
        """
        blocks = [child for child in self.dit.children() if isinstance(child, nn.ModuleList)]
        inner = {id(m): min(m.weight.shape) for block in blocks for m in block.modules() if isinstance(m, nn.Linear)}
        width = max(inner.values(), default=0)
        layers = [m for m in self.dit.modules() if isinstance(m, nn.Linear) and id(m) not in inner]
        return [m for m in layers if not inner or min(m.weight.shape) < width]


def _learning_or_cached(encoder: TextEncoder | CachedText) -> nn.Module:
    return encoder if isinstance(encoder, CachedText) or encoder.trainable else CachedText(encoder)
