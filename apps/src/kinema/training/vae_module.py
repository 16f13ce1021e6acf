"""The Lightning module that trains a VAE."""

import lightning.pytorch as pl
import torch
from kinema_core import Clip, VideoVAE, seeded_generator
from torch import Tensor
from torch.optim import Optimizer

from kinema.training.optim import DEFAULT_OPTIMISER, MakeOptimiser, matrix_groups


class VAEModule(pl.LightningModule):
    """Reconstruction with a little pull of the latents towards N(0, 1).

    Args:
        vae: the network; a `VideoVAE` of any kind.
        l1: weight of the absolute error beside the squared error.
        kl: weight of the divergence, summed over nothing: the mean over latent values.
        seed: of the posterior's samples.
        optimiser: makes it of the groups of `matrix_groups`.
    """

    def __init__(
        self,
        vae: VideoVAE,
        *,
        l1: float = 0.2,
        kl: float = 1e-4,
        seed: int = 0,
        optimiser: MakeOptimiser = DEFAULT_OPTIMISER,
    ) -> None:
        super().__init__()
        self.vae = vae
        self.l1, self.kl, self.seed = l1, kl, seed
        self.optimiser = optimiser

    def training_step(self, batch: list[Clip], _: int) -> Tensor:
        """Clips of few sizes -> the loss, in which every clip counts the same."""
        sizes = dict.fromkeys(clip.video.shape for clip in batch)
        groups = [[clip for clip in batch if clip.video.shape == size] for size in sizes]
        losses = torch.stack([self._losses(group) * len(group) / len(batch) for group in groups]).sum(0)
        loss, squared, divergence = losses.unbind()
        self.log_dict({"train/loss": loss, "train/mse": squared, "train/kl": divergence}, batch_size=len(batch))
        return loss

    def _losses(self, clips: list[Clip]) -> Tensor:
        """Clips of one size -> (loss, squared error, divergence)."""
        video = torch.stack([clip.video for clip in clips])  # (B, 3, T, H, W)
        mean, log_variance = self.vae.posterior(video)
        decoded = self.vae.decode(self._sampled(mean, log_variance, clips), size=(video.shape[3], video.shape[4]))

        error = decoded - video
        squared, absolute = error.square().mean(), error.abs().mean()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return torch.stack([squared + self.l1 * absolute + self.kl * divergence, squared, divergence])

    def _sampled(self, mean: Tensor, log_variance: Tensor, batch: list[Clip]) -> Tensor:
        """A sample of the posterior; a clip's noise depends on (seed, step, id) alone."""
        noise = torch.stack(
            [
                torch.randn(mean.shape[1:], generator=seeded_generator(self.seed, self.global_step, clip.id))
                for clip in batch
            ]
        )
        return mean + noise.to(mean) * (0.5 * log_variance).exp()

    def configure_optimizers(self) -> Optimizer:
        """Muon for the convolutions, AdamW for the rest."""
        return self.optimiser(matrix_groups(self.vae))


@torch.no_grad()
def whiten(vae: VideoVAE, clips: list[Clip]) -> None:
    """Set the VAE's whitening to the statistics of these clips' latents."""
    means = [vae.posterior(clip.video[None])[0][0].flatten(1) for clip in clips]  # (C, cells) each
    values = torch.cat(means, dim=1)
    vae.set_whitening(values.mean(1), values.std(1))
