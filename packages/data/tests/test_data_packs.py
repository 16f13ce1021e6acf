"""The pack sampler: packs of equal cost, every clip once, ranks invisible, resumable."""

import itertools
from collections import Counter

import numpy as np
import pytest

from kinema_data import PackSampler, TokenBudgetSampler

#: Tokens of clips from an image to a long video, and how common they are.
LENGTHS = {16: 0.3, 48: 0.3, 72: 0.2, 80: 0.1, 300: 0.1}


def drawn(num: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).choice(list(LENGTHS), num, p=list(LENGTHS.values())).tolist()


def make(num: int = 3000, **options) -> PackSampler:
    tokens = drawn(num)
    return PackSampler(tokens, tokens, **{"length": 1000, "packs": 4, **options})


def packs(sampler: PackSampler, epoch: int = 0) -> list[list[int]]:
    """All packs of an epoch: each is what one of as many ranks as packs gets."""
    ranks = [make(len(sampler.tokens), quadratic=sampler.quadratic, rank=rank, world=4) for rank in range(4)]
    steps = range(sampler.steps_in(epoch))
    return [rank.batch(epoch, step) for step, rank in itertools.product(steps, ranks)]


@pytest.mark.parametrize("quadratic", [0.0, 1e-3, 3e-3])
def test_packs_keep_both_bounds_and_cost_the_same(quadratic: float) -> None:
    sampler = make(quadratic=quadratic)
    found = packs(sampler)
    tokens = np.array([sampler.tokens[pack].sum() for pack in found])
    costs = np.array([(sampler.tokens[pack] * (1 + quadratic * sampler.tokens[pack])).sum() for pack in found])
    assert tokens.max() <= 1000 and costs.max() <= sampler.budget
    used = np.maximum(tokens / 1000, costs / sampler.budget)
    assert np.median(used) > 0.98 and (used > 0.9).mean() > 0.97
    drawn_once = Counter(int(clip) for pack in found for clip in pack)
    assert max(drawn_once.values()) == 1
    assert sampler.tokens[sorted(drawn_once)].sum() > 0.95 * sampler.tokens.sum()


def test_ranks_cost_the_same_where_a_token_budget_leaves_one_behind() -> None:
    """A long clip costs twice its tokens in attention: steps of equal tokens differ, and so do ranks within a step."""
    quadratic = 3e-3
    sampler = make(quadratic=quadratic)
    even = np.array([sampler.cost[pack].sum() for pack in packs(sampler)]).reshape(-1, 4)
    tokens = drawn(3000)
    shares = [TokenBudgetSampler(tokens, tokens, budget=4000, rank=rank, world=4) for rank in range(4)]
    uneven = np.array(
        [[sampler.cost[share.batch(0, step)].sum() for share in shares] for step in range(shares[0].steps_in(0))]
    )
    waits = [(costs.max(1) / costs.mean(1)).mean() for costs in (even, uneven)]
    spread = [costs.sum(1).std() / costs.mean() / 4 for costs in (even, uneven)]
    assert waits[0] < 1.02 and waits[1] > 1.04
    assert spread[0] < 0.04 and spread[1] > 0.1


def test_no_clip_is_left_out_of_every_epoch_and_packs_that_are_not_full_are_shuffled_too() -> None:
    tokens = [1000] * 8 + [16] * 10  # eight full packs and one of images: one is left out of each epoch
    sampler = PackSampler(tokens, tokens, length=1000, packs=4)
    drawn_in = [sum((sampler.global_batch(epoch, step) for step in range(2)), []) for epoch in range(20)]
    assert set().union(*drawn_in) == set(range(18))
    coarse = [600] * 100 + [700] * 100  # no two fit together
    sampler = PackSampler(coarse, coarse, length=1000, packs=4)
    first = sum((sampler.global_batch(0, step) for step in range(10)), [])
    assert {coarse[clip] for clip in first} == {600, 700}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_the_packs_of_a_step(world: int) -> None:
    samplers = [make(rank=rank, world=world) for rank in range(world)]
    for step in range(samplers[0].steps_in(1)):
        shares = [sampler.batch(1, step) for sampler in samplers]
        assert list(itertools.chain(*shares)) == samplers[0].global_batch(1, step) == make().global_batch(1, step)


def test_epochs_differ_and_a_saved_position_goes_on_with_other_ranks() -> None:
    sampler = make(seed=3)
    assert sampler.global_batch(0, 0) != sampler.global_batch(1, 0) != make(seed=4).global_batch(1, 0)
    sampler.advance(sampler.steps_in(0) + 2)
    other = make(seed=0, rank=1, world=2)
    other.load_state_dict(sampler.state_dict())
    assert next(iter(other)) == sampler.global_batch(1, 2)[len(sampler.global_batch(1, 2)) - len(next(iter(other))) :]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packs": 3, "world": 2}, "3 packs a step cannot be shared evenly by 2 ranks"),
        ({"quadratic": -1.0}, "quadratic is -1"),
        ({"length": 200}, "a pack of 200 tokens .* the largest clip has 300"),
        ({"budget": 100.0}, "a cost of 100 is too small: the largest clip has 300 and costs 300"),
        ({"num": 3}, "3 clips does not fill 4 packs"),
    ],
)
def test_wrong_arguments(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)
