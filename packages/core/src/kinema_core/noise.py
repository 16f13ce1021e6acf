"""Noise that depends on nothing but its key, so that batch, rank, device and resume leave it as it is."""

import hashlib

import torch
from torch import Generator, Tensor


def seeded_generator(*key: int | str) -> Generator:
    """A CPU generator whose state is a hash of `key`, such as (seed, clip id, draw) or (seed, step, clip id)."""
    digest = hashlib.blake2b("\x1f".join(map(repr, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def seeded_normal(shape: tuple[int, ...], *key: int | str) -> Tensor:
    """Standard normal float32 values on the CPU, a function of `shape` and `key` alone."""
    return torch.randn(shape, generator=seeded_generator(*key))
