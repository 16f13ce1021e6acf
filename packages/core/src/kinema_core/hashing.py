"""What tells weights apart."""

import hashlib
from collections.abc import Mapping
from ctypes import string_at

from torch import Tensor


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of a `state_dict()`: equal for equal weights, wherever they lie."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().contiguous()
        # Not through numpy, which core does not need otherwise.
        digest.update(string_at(values.data_ptr(), values.nbytes))
    return digest.hexdigest()
