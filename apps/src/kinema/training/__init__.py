"""Training: the Lightning modules and data module, which also run in a `Trainer` of your own."""

from kinema.training.clip_module import CLIPModule
from kinema.training.data_module import BudgetDataModule, Remembered, pixels
from kinema.training.dit_module import DiTModule, LatentBatch
from kinema.training.optim import MuonAdamW, matrix_groups
from kinema.training.vae_module import VAEModule

__all__ = [
    "BudgetDataModule",
    "CLIPModule",
    "DiTModule",
    "LatentBatch",
    "MuonAdamW",
    "Remembered",
    "VAEModule",
    "matrix_groups",
    "pixels",
]
