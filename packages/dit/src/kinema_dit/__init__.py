"""Kinema's diffusion transformer over packed spacetime patches."""

from kinema_dit.video_dit import VideoDiT

__all__ = ["VideoDiT"]
