"""The token budget sampler: every clip once, budgets kept, ranks invisible, resumable."""

import copy
import itertools
import json
import pickle
import time

import numpy as np
import pytest
from kinema_core import ClipInfo

from kinema_data import Draw, TokenBudgetSampler

SIZES = {(9, 32, 32): 48, (17, 32, 32): 80, (9, 32, 48): 72, (1, 32, 32): 16, (5, 48, 48): 72, (1, 48, 48): 36}


def drawn_sizes(num: int, seed: int = 0) -> list[tuple[int, int, int]]:
    """Sizes of `num` clips at random."""
    random = np.random.default_rng(seed)
    return [list(SIZES)[i] for i in random.integers(0, len(SIZES), num)]


def make(num: int = 1000, **options: object) -> TokenBudgetSampler:
    sizes = drawn_sizes(num)
    return TokenBudgetSampler([SIZES[size] for size in sizes], sizes, **{"budget": 1000, **options})


def steps(sampler: TokenBudgetSampler, epoch: int = 0) -> list[list[int]]:
    return [sampler.global_batch(epoch, step) for step in range(sampler.steps_in(epoch))]


@pytest.mark.parametrize("sizes_per_step", [1, 2, 4])
def test_each_clip_once_and_budgets_filled(sizes_per_step: int) -> None:
    sampler = make(sizes_per_step=sizes_per_step)
    for epoch in range(3):
        plan = steps(sampler, epoch)
        clips = list(itertools.chain(*plan))
        assert len(set(clips)) == len(clips)
        missing = set(range(1000)) - set(map(int, clips))
        assert sampler.tokens[sorted(missing)].sum() < 500, "less than half a step may be left out"
        loads = np.array([sampler.tokens[batch].sum() for batch in plan])
        assert loads.max() <= 1000 and loads[:-1].mean() > 900
        distinct = [len({int(sampler.groups[i]) for i in batch}) for batch in plan]
        assert np.mean([n <= sizes_per_step for n in distinct]) > 0.85


def test_no_clip_is_left_out_of_every_epoch() -> None:
    # Three small clips fill no block, and a step of them alone is less than half full.
    sampler = TokenBudgetSampler([100] * 20 + [10] * 3, ["large"] * 20 + ["small"] * 3, budget=1000)
    drawn = {int(i) for epoch in range(20) for batch in steps(sampler, epoch) for i in batch}
    assert drawn == set(range(23))


def test_order_changes_with_epoch_and_seed_only() -> None:
    assert steps(make()) == steps(make()) == steps(make(rank=1, world=4))
    assert steps(make()) != steps(make(seed=1))
    assert steps(make(), 0) != steps(make(), 1)
    # Every clip moves: no order survives the shuffle.
    first, second = ([int(i) for b in steps(make(), e) for i in b] for e in (0, 1))
    assert abs(np.corrcoef(np.argsort(first[:900]), np.argsort(second[:900]))[0, 1]) < 0.2


@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_share_the_global_batch(world: int) -> None:
    samplers = [make(rank=rank, world=world, budget=2000) for rank in range(world)]
    for step in range(samplers[0].steps_in(0)):
        parts = [sampler.batch(0, step) for sampler in samplers]
        whole = make(budget=2000).batch(0, step)
        assert sorted(itertools.chain(*parts)) == sorted(whole)
        assert sorted(d.slot for part in parts for d in part) == list(range(len(whole)))
        loads = [samplers[0].tokens[part].sum() for part in parts]
        assert min(map(len, parts)) > 0 and max(loads) - min(loads) <= 80


@pytest.mark.parametrize("seed", range(30))
def test_no_rank_is_ever_without_a_clip(seed: int) -> None:
    random = np.random.default_rng(seed)
    num = int(random.integers(8, 300))
    groups = random.integers(0, random.integers(1, 20), num)
    costs = random.integers(1, 200, 20)
    world = int(random.integers(2, 9))
    budget = int(2 * world * costs[groups].max() * random.uniform(1, 2))
    options = {"budget": budget, "sizes_per_step": int(random.integers(1, 7)), "world": world}
    sampler = TokenBudgetSampler(costs[groups].tolist(), groups.tolist(), **options)
    for epoch in range(3):
        for batch in steps(sampler, epoch):
            assert len(batch) >= world and sampler.tokens[batch].sum() <= budget


def test_stream_resumes_anywhere_and_with_other_ranks() -> None:
    sampler = make(200)
    whole = list(itertools.islice(sampler, 40))
    assert {draw.epoch for batch in whole for draw in batch} == {0, 1, 2, 3}, "several epochs"
    for position in (0, 1, 9, 10, 11, 12, 13, 25):
        one = make(200)
        one.advance(position)
        state = json.loads(json.dumps(one.state_dict()))
        again = make(200, seed=5)
        again.load_state_dict(state)
        assert list(itertools.islice(again, 10)) == whole[position : position + 10]
        two = [make(200, rank=rank, world=2) for rank in range(2)]
        for part in two:
            part.load_state_dict(state)
        for batches in itertools.islice(zip(whole[position:], *two, strict=False), 10):
            assert sorted(batches[1] + batches[2]) == sorted(batches[0])


def test_iterating_does_not_move_the_position() -> None:
    sampler = make()
    assert list(itertools.islice(sampler, 5)) == list(itertools.islice(sampler, 5))
    assert sampler.state_dict()["step"] == 0


def test_state_of_another_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match="another dataset"):
        make(1000).load_state_dict(make(999).state_dict())


def test_weights_set_how_often_a_size_comes() -> None:
    sampler = make(weights={(9, 32, 32): 2, (17, 32, 32): 0.5, (1, 48, 48): 0})
    clips = np.array([int(i) for batch in steps(sampler) for i in batch])
    for number, (size, times) in enumerate(
        {size: {(9, 32, 32): 2, (17, 32, 32): 0.5, (1, 48, 48): 0}.get(size, 1) for size in drawn_sizes(1000)}.items()
    ):
        of_size = clips[sampler.groups[clips] == number]
        counts = np.bincount(of_size, minlength=1000)[sampler.groups == number]
        assert abs(counts.mean() - times) < 0.1 and counts.max() <= np.ceil(times), size


def test_small_sets_make_one_step() -> None:
    sampler = TokenBudgetSampler([10, 10, 10], ["a", "b", "c"], budget=1000, world=3)
    assert sampler.steps_in(0) == 1 and sorted(sampler.global_batch(0, 0)) == [0, 1, 2]
    with pytest.raises(ValueError, match="3 clips does not reach 4 ranks"):
        TokenBudgetSampler([10, 10, 10], ["a", "b", "c"], budget=1000, world=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 79}, "largest clip has 80"),
        ({"budget": 319, "world": 2}, "2 ranks need 320"),
        ({"rank": 1}, "rank 1"),
        ({"sizes_per_step": 0}, "sizes_per_step 0"),
        ({"weights": {(9, 9, 9): 1.0}}, "no clip has"),
        ({"weights": {size: 0 for size in SIZES}}, "not all 0"),
    ],
)
def test_wrong_arguments(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_of_a_dataset() -> None:
    class Infos:
        def __len__(self) -> int:
            return 20

        def info(self, index: int) -> ClipInfo:
            return ClipInfo(f"clip{index}", 1 + 4 * (index % 3), 32, 32, 8.0, "x")

    sampler = TokenBudgetSampler.of(Infos(), lambda info: info.frames * 4, budget=100, sizes_per_step=1)
    assert sampler.tokens.tolist() == [4 * (1 + 4 * (i % 3)) for i in range(20)]
    assert sampler.groups.tolist() == [i % 3 for i in range(20)]


def test_draws_survive_pickling() -> None:
    draw = Draw(7, 1, 2, 3)
    for other in (pickle.loads(pickle.dumps(draw)), copy.deepcopy(draw)):
        assert (int(other), other.epoch, other.step, other.slot) == (7, 1, 2, 3)


def test_planning_is_fast() -> None:
    sizes = drawn_sizes(10_000)
    start = time.process_time()
    sampler = TokenBudgetSampler([SIZES[size] for size in sizes], sizes, budget=1000)
    assert sampler.steps_in(0) > 500
    assert time.process_time() - start < 0.5
