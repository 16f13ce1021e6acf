"""The step cache: when an output is used again, by numbers that can be worked out, and each clip by itself."""

import pytest
import torch
from kinema_core import Conditioning, Ragged, TextFeatures, seeded_normal

from kinema_sampling import StepCache

SIZES = [(2, 3, 4), (1, 4, 4), (3, 2, 2)]


class Tripled:
    """A network whose output is three times its input, plus a feature of the clip and of its text; it counts cells."""

    def __init__(self) -> None:
        self.cells: list[int] = []

    def __call__(self, x: Ragged, noise: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        self.cells.append(len(x.values))
        text = cond.text[0].tokens.sum((1, 2)) if cond.text else torch.zeros(len(x))
        return 3 * x.values + x.per_cell(text)[:, None] + noise[:, None]


def pack(value: float, sizes=((1, 2, 2),)) -> Ragged:
    return Ragged.from_clips([torch.full((2, *size), float(value)) for size in sizes])


def run(net, values, sizes=((1, 2, 2),), names=("cond",)):
    outs = []
    for value in values:
        x = pack(value, sizes)
        whole = Ragged.cat([x] * len(names))
        outs.append(net.branches(names)(whole, torch.zeros(len(whole.values)), Conditioning()))
    return outs


def test_outputs_are_kept_until_their_expected_change_reaches_the_threshold():
    """From the second step on the rate, 3, is known: each step adds 3 x 1 / (3 x 10), 1 / (3 x 13), ... of change."""
    inner = Tripled()
    cache = StepCache(inner, 0.25)
    outs = run(cache, [9, 10, 11, 12, 13, 14, 15, 16])
    # After 10: .1 at 11, .2 at 12, .3 at 13 -> computed; then 1/13 a step: .08, .15, .23 at 16.
    assert [int(out[0, 0]) for out in outs] == [27, 30, 30, 30, 39, 39, 39, 39]
    assert len(inner.cells) == 3 and (cache.computed, cache.asked) == (3, 8)


def test_each_branch_has_outputs_of_its_own_whatever_is_asked_between():
    cache = StepCache(lambda x, noise, cond: 3 * x.values + cond.clips["branch"].repeat_interleave(4, 0), 1.0)
    x, cond, uncond = pack(1), torch.ones(1, 2), torch.zeros(1, 2)

    def ask(names, *features):
        whole = Ragged.cat([x] * len(names))
        net = cache.branches(names)
        return net(whole, torch.zeros(len(whole.values)), Conditioning(clips={"branch": torch.cat(features)}))

    both = ask(("cond", "uncond"), cond, uncond)
    torch.testing.assert_close(both, torch.tensor([4.0] * 4 + [3.0] * 4)[:, None].expand(8, 2))
    for _ in range(3):
        assert torch.equal(ask(("uncond",), uncond), both[4:])
    assert torch.equal(ask(("cond",), cond), both[:4])


def test_only_the_clips_that_change_are_computed_and_as_if_they_were_alone():
    def inputs(step: int, clip: int) -> torch.Tensor:
        return seeded_normal((3, *SIZES[clip]), clip) * (1 + 0.05 * (clip + 1) * step)

    text = TextFeatures(torch.randn(3, 5, 4), torch.ones(3, 5, dtype=torch.bool))

    def sample(clips: list[int]) -> tuple[list[torch.Tensor], list[int]]:
        inner = Tripled()
        net = StepCache(inner, 0.3).branches(("cond",))
        cond = Conditioning((text[clips],))
        outs = []
        for step in range(8):
            x = Ragged.from_clips([inputs(step, clip) for clip in clips])
            outs.append(net(x, torch.full((len(x.values),), 0.1 * step), cond))
        return [torch.stack(parts) for parts in zip(*(out.split(x.lengths) for out in outs), strict=True)], inner.cells

    together, cells = sample([0, 1, 2])
    assert len(set(cells)) > 1, "the pack shrinks to the clips that are due"
    for clip in range(3):
        (alone,), _ = sample([clip])
        torch.testing.assert_close(together[clip], alone)


def test_a_threshold_has_to_be_above_zero():
    with pytest.raises(ValueError, match="above 0, not 0"):
        StepCache(Tripled(), 0)
