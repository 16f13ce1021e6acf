"""Where and how precisely a network computes: what it is given has to be there, and as precise."""

from typing import Any

import torch
from kinema_core import device_of
from torch import nn


def place_of(network: nn.Module) -> dict[str, Any]:
    """{"device": ..., "dtype": ...} for `Tensor.to`: float64 if the network's weights are, else float32."""
    first = next(network.parameters(), torch.empty(0))
    return {"device": device_of(network), "dtype": torch.promote_types(first.dtype, torch.float32)}


def bf16_in_hardware(device: torch.device) -> bool:
    """Whether `device` multiplies in bfloat16 itself, as every GPU is taken to; emulated, products are very slow."""
    if device.type != "cpu":
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
