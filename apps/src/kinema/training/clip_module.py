"""The Lightning module that trains a CLIP on frames and captions."""

from typing import Protocol

import lightning.pytorch as pl
import torch
from kinema_core import Clip, seeded_generator
from torch import Tensor, nn
from torch.optim import Optimizer

from kinema.training.optim import DEFAULT_OPTIMISER, MakeOptimiser, matrix_groups


class Contrastive(Protocol):
    """An `ImageText` that can be trained: its `loss` of images (B, 3, K, K) and their B captions."""

    def resize(self, images: Tensor) -> Tensor: ...

    def loss(self, images: Tensor, captions: list[str]) -> Tensor: ...


class CLIPModule(pl.LightningModule):
    """Contrastive training: one random frame and one random caption of every clip.

    Args:
        image_text: an `ImageText` with `resize` and `loss`, such as `kinema_text.OpenClipImageText`.
        seed: of the choice of frames and captions.
        optimiser: makes it of the groups of `matrix_groups`.
    """

    def __init__(
        self,
        image_text: nn.Module,
        *,
        seed: int = 0,
        optimiser: MakeOptimiser = DEFAULT_OPTIMISER,
    ) -> None:
        super().__init__()
        self.image_text: nn.Module | Contrastive = image_text
        self.seed = seed
        self.optimiser = optimiser

    def training_step(self, batch: list[Clip], _: int) -> Tensor:
        """Clips of any sizes -> the loss."""
        frames, captions = zip(*(self._drawn(clip) for clip in batch), strict=True)
        images = torch.cat([self.image_text.resize(frame[None]) for frame in frames])  # (B, 3, K, K)
        loss = self.image_text.loss(images, list(captions))
        self.log("train/loss", loss, batch_size=len(batch))
        return loss

    def _drawn(self, clip: Clip) -> tuple[Tensor, str]:
        """A frame (3, H, W) and a caption, by (seed, step, id)."""
        generator = seeded_generator(self.seed, self.global_step, clip.id)
        frame, caption = torch.rand(2, generator=generator).tolist()
        captions = list(clip.captions.values())
        return clip.video[:, int(frame * clip.video.shape[1])], captions[int(caption * len(captions))]

    def configure_optimizers(self) -> Optimizer:
        """Muon for the matrices of both towers, AdamW for the rest."""
        return self.optimiser(matrix_groups(self.image_text))
