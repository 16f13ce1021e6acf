"""Seeded noise: a function of its key alone, and normal."""

import itertools
import os
import subprocess
import sys

import torch

from kinema_core import seeded_generator, seeded_normal

KEYS = [
    (0, "clip"),
    (1, "clip"),
    (0, "clip", 0),
    (0, "clip", 1),
    ("0", "clip"),
    (0, 1, "clip"),
    (0, "1", "clip"),
    (0, "1clip"),
    (0,),
    (),
]


def test_the_same_key_repeats_and_others_differ():
    draws = [seeded_normal((64,), *key) for key in KEYS]
    for key, draw in zip(KEYS, draws, strict=True):
        assert torch.equal(draw, seeded_normal((64,), *key))
    for one, other in itertools.combinations(draws, 2):
        assert not torch.equal(one, other)


def test_another_process_with_another_hash_seed_draws_the_same():
    script = "from kinema_core import seeded_normal; print(seeded_normal((3,), 7, 'a').tolist())"
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert done.stdout == f"{seeded_normal((3,), 7, 'a').tolist()}\n"


def test_the_global_generator_is_neither_used_nor_moved():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = seeded_normal((4,), 0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(first, seeded_normal((4,), 0))


def test_generator_continues_where_normal_starts():
    generator = seeded_generator(3, "clip")
    assert torch.equal(torch.randn(8, generator=generator), seeded_normal((8,), 3, "clip"))
    assert generator.device.type == "cpu"


def test_values_are_standard_normal_and_keys_are_independent():
    n = 100_000
    one, other = seeded_normal((n,), 0), seeded_normal((n,), 1)
    # Each bound is five standard errors.
    bound = 5 / n**0.5
    assert abs(one.mean().item()) < bound
    assert abs(one.square().mean().item() - 1) < bound * 2**0.5
    assert abs(one.pow(3).mean().item()) < bound * 15**0.5
    assert abs((one.abs() < 0.6744898).float().mean().item() - 0.5) < bound / 2
    assert abs((one * other).mean().item()) < bound
