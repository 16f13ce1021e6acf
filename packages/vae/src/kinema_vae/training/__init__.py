"""What a VAE is trained with beside its own terms; `kinema-vae[train]` installs what the perceptual losses need."""

from kinema_vae.training.discriminator import PatchDiscriminator, adaptive_weight, hinge
from kinema_vae.training.perceptual import PerceptualLoss
from kinema_vae.training.wavelet import wavelet_l1

__all__ = ["PatchDiscriminator", "PerceptualLoss", "adaptive_weight", "hinge", "wavelet_l1"]
