"""The Lightning module that trains a CLIP on frames and captions."""

from typing import Protocol

import lightning.pytorch as pl
import torch
from kinema_core import Clip, seeded_generator
from torch import Generator, Tensor, nn
from torch.nn.functional import interpolate
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
        soften: share of the frames that are seen softened and noisy. An image tower that has seen crisp frames only
            takes the slightest blur of a generated frame for another content.
        seed: of the choice of frames and captions.
        optimiser: makes it of the groups of `matrix_groups`.
    """

    def __init__(
        self,
        image_text: nn.Module,
        *,
        soften: float = 0.0,
        seed: int = 0,
        optimiser: MakeOptimiser = DEFAULT_OPTIMISER,
    ) -> None:
        super().__init__()
        self.image_text: nn.Module | Contrastive = image_text
        self.soften, self.seed = soften, seed
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
        at, caption, draw = torch.rand(3, generator=generator).tolist()
        frame, captions = clip.video[:, int(at * clip.video.shape[1])], list(clip.captions.values())
        if draw < self.soften:
            frame = _softened(frame, generator)
        return frame, captions[int(caption * len(captions))]

    def configure_optimizers(self) -> Optimizer:
        """Muon for the matrices of both towers, AdamW for the rest."""
        return self.optimiser(matrix_groups(self.image_text))


def _softened(frame: Tensor, generator: Generator) -> Tensor:
    """A frame (3, H, W) scaled down to .35 to 1 of its size and back, with noise of a deviation up to .1."""
    scale, noise = torch.rand(2, generator=generator).tolist()
    small = [max(1, round((0.35 + 0.65 * scale) * side)) for side in frame.shape[1:]]
    blurred = interpolate(interpolate(frame[None], small, mode="area"), frame.shape[1:], mode="bilinear")[0]
    grain = torch.randn(frame.shape, generator=generator).to(frame)
    return (blurred + 0.1 * noise * grain).clamp(-1, 1)
