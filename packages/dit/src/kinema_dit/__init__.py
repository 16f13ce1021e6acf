"""Kinema's diffusion transformer over packed spacetime patches."""

from kinema_dit.sizes import SIZES, forward_flops, num_parameters
from kinema_dit.video_dit import VideoDiT
from kinema_dit.wan_weights import load_wan, save_wan

__all__ = ["SIZES", "VideoDiT", "forward_flops", "load_wan", "num_parameters", "save_wan"]
