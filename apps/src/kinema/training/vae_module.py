"""The Lightning module that trains a VAE."""

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from kinema_core import Clip, VideoVAE, device_of, seeded_generator
from kinema_vae.training import adaptive_weight, hinge, wavelet_l1
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from kinema.training.optim import DEFAULT_OPTIMISER, MakeOptimiser, matrix_groups


@dataclass(frozen=True)
class VAELoss:
    """Weights of a VAE's losses; the squared error has weight 1.

    Attributes:
        l1: of the absolute error.
        kl: of the divergence of the posterior from N(0, 1), as the mean over latent values.
        wavelet: of the absolute error of Haar coefficients.
        flicker: of the squared error of the change from each frame to the next: errors that stay are seen less than
            those that come and go.
        perceptual: of the distance in the features of an image network.
        gan: of the adversarial loss, after it is balanced against the others at the decoder's last layer.
        gan_start: the first step with the adversarial loss and the discriminator's training.
    """

    l1: float = 0.2
    kl: float = 1e-4
    wavelet: float = 0.0
    flicker: float = 0.0
    perceptual: float = 0.0
    gan: float = 0.0
    gan_start: int = 0


class VAEModule(pl.LightningModule):
    """Reconstruction with a little pull of the latents towards N(0, 1), and what makes detail look right.

    The discriminator learns in the same step and by the same optimiser as the VAE, each from its own loss: the VAE's
    adversarial loss goes through a copy of the discriminator that takes no gradient.

    Args:
        vae: the network; a `VideoVAE` of any kind. Its whitening is taken off, see `whiten`.
        weights: of the losses.
        perceptual: (decoded, original) -> a distance; needed where its weight is not 0.
        discriminator: video (B, 3, T, H, W) -> scores of any shape; needed where the weight of `gan` is not 0.
        seed: of the posterior's samples.
        optimiser: makes it of the groups of `matrix_groups`.
    """

    def __init__(
        self,
        vae: VideoVAE,
        *,
        weights: VAELoss = VAELoss(),  # noqa: B008  it is frozen
        perceptual: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        seed: int = 0,
        optimiser: MakeOptimiser = DEFAULT_OPTIMISER,
    ) -> None:
        super().__init__()
        if (weights.perceptual and perceptual is None) or (weights.gan and discriminator is None):
            raise ValueError("a perceptual weight needs a perceptual network, a weight of gan a discriminator")
        # In training the decoder is given the posterior's own values: `whiten` sets the statistics anew at the end.
        vae.set_whitening(torch.zeros(vae.latent_channels), torch.ones(vae.latent_channels))
        self.vae = vae
        self.weights, self.seed = weights, seed
        self.discriminator = discriminator if weights.gan else None
        # Hidden from checkpoints and the optimiser: its weights are not ours.
        self._perceptual = (perceptual,)
        self.optimiser = optimiser

    def training_step(self, batch: list[Clip], _: int) -> Tensor:
        """Clips of few sizes -> the loss, in which every clip counts the same."""
        sizes = dict.fromkeys(clip.video.shape for clip in batch)
        groups = [[clip for clip in batch if clip.video.shape == size] for size in sizes]
        totals: dict[str, Tensor] = {}
        for group in groups:
            for name, value in self._losses(group).items():
                totals[name] = totals.get(name, 0.0) + value * (len(group) / len(batch))
        self.log_dict({f"train/{name}": value.detach() for name, value in totals.items()}, batch_size=len(batch))
        return totals["loss"]

    def _losses(self, clips: list[Clip]) -> dict[str, Tensor]:
        """Clips of one size -> "loss" and its parts."""
        video = torch.stack([clip.video for clip in clips])  # (B, 3, T, H, W)
        mean, log_variance = self.vae.posterior(video)
        decoded = self.vae.decode(self._sampled(mean, log_variance, clips), size=(video.shape[3], video.shape[4]))

        weights, error = self.weights, decoded - video
        parts = {
            "mse": error.square().mean(),
            "kl": 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(),
        }
        loss = parts["mse"] + weights.kl * parts["kl"]
        if weights.l1:
            loss = loss + weights.l1 * error.abs().mean()
        if weights.wavelet:
            parts["wavelet"] = wavelet_l1(error)
            loss = loss + weights.wavelet * parts["wavelet"]
        if weights.flicker:
            changes = error[:, :, 1:] - error[:, :, :-1]  # none in an image
            parts["flicker"] = changes.square().sum() / error.numel()
            loss = loss + weights.flicker * parts["flicker"]
        if weights.perceptual and (perceptual := self._perceptual[0]) is not None:
            parts["perceptual"] = perceptual.to(video.device)(decoded, video)
            loss = loss + weights.perceptual * parts["perceptual"]
        if self.discriminator is not None:
            loss = loss + self._adversarial(self.discriminator, loss, decoded, video, parts)
        return {"loss": loss, **parts}

    def _adversarial(
        self, discriminator: nn.Module, loss: Tensor, decoded: Tensor, video: Tensor, parts: dict[str, Tensor]
    ) -> Tensor:
        """The adversarial loss of the VAE and that of the discriminator; both 0 before `gan_start`."""
        if self.global_step < self.weights.gan_start:
            # Distributed training waits for a gradient of every weight.
            return 0 * torch.stack([p.sum() for p in discriminator.parameters()]).sum()
        fixed = {name: p.detach() for name, p in discriminator.named_parameters()}
        parts["adversarial"] = -functional_call(discriminator, fixed, (decoded,)).mean()
        balance = adaptive_weight(loss, parts["adversarial"], self.vae.last_layer)
        parts["discriminator"] = hinge(discriminator(video), discriminator(decoded.detach()))
        return self.weights.gan * balance * parts["adversarial"] + parts["discriminator"]

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
        groups = matrix_groups(self.vae)
        if self.discriminator is not None:
            groups += matrix_groups(self.discriminator)
        return self.optimiser(groups)


class FiniteSteps(pl.Callback):
    """Leaves out steps whose gradients are not finite, and counts them in `skipped`: weights and moments stay."""

    def __init__(self) -> None:
        self.skipped = 0

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Take the gradients away where one is NaN or infinite; optimisers pass over weights without one."""
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if params and not torch.isfinite(torch.stack(torch._foreach_norm([p.grad for p in params]))).all():
            self.skipped += 1
            for p in params:
                p.grad = None
            pl_module.log("train/skipped_steps", float(self.skipped))

    def state_dict(self) -> dict[str, Any]:
        """The count so far."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.skipped = state_dict["skipped"]


@torch.no_grad()
def whiten(vae: VideoVAE, clips: list[Clip]) -> None:
    """Set the VAE's whitening to the statistics of these clips' latents."""
    device = device_of(vae)
    means = [vae.posterior(clip.video[None].to(device))[0][0].flatten(1) for clip in clips]  # (C, cells) each
    values = torch.cat(means, dim=1)
    vae.set_whitening(values.mean(1), values.std(1))
