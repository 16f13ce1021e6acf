"""Video compression networks: see `Causal3D`."""

from kinema_vae.causal3d import PRESETS, Causal3D

__all__ = ["PRESETS", "Causal3D"]
