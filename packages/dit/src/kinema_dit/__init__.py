"""Kinema's diffusion transformer over packed spacetime patches."""

from kinema_dit.attention import neighbour_attention, packed_attention
from kinema_dit.lora import LORA_TARGETS, add_lora, load_lora, merge_lora, save_lora
from kinema_dit.neighbourhoods import CausalBlocks, Windows, neighbourhoods
from kinema_dit.noise_experts import NoiseExperts
from kinema_dit.packing import pack
from kinema_dit.sizes import SIZES, forward_flops, num_parameters
from kinema_dit.video_dit import VideoDiT
from kinema_dit.wan_weights import load_wan, save_wan, wan_settings

__all__ = [
    "LORA_TARGETS",
    "SIZES",
    "CausalBlocks",
    "NoiseExperts",
    "VideoDiT",
    "Windows",
    "add_lora",
    "forward_flops",
    "load_lora",
    "load_wan",
    "merge_lora",
    "neighbour_attention",
    "neighbourhoods",
    "num_parameters",
    "pack",
    "packed_attention",
    "save_lora",
    "save_wan",
    "wan_settings",
]
