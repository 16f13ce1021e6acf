"""Video compression networks."""

from kinema_vae.causal3d import Causal3D
from kinema_vae.presets import PRESETS
from kinema_vae.tiling import TiledVAE
from kinema_vae.wan_weights import load_wan, save_wan

__all__ = ["PRESETS", "Causal3D", "TiledVAE", "load_wan", "save_wan"]
