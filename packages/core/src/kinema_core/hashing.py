"""What tells weights apart."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of a `state_dict()`: equal for equal weights, wherever they lie."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
