"""Where and how precisely a network computes: what it is given has to be there, and as precise."""

from typing import Any

import torch
from kinema_core import device_of
from torch import nn


def place_of(network: nn.Module) -> dict[str, Any]:
    """{"device": ..., "dtype": ...} for `Tensor.to`: float64 if the network's weights are, else float32."""
    first = next(network.parameters(), torch.empty(0))
    return {"device": device_of(network), "dtype": torch.promote_types(first.dtype, torch.float32)}
