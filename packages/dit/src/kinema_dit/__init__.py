"""Kinema's diffusion transformer over packed spacetime patches."""

from kinema_dit.video_dit import VideoDiT
from kinema_dit.wan_weights import load_wan, save_wan

__all__ = ["VideoDiT", "load_wan", "save_wan"]
