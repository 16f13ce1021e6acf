"""Converters between predictions, schedules and guidance."""

import itertools

import pytest
import torch
from kinema_core import Ragged, guidances, seeded_normal
from kinema_core.testing import GuidanceContract, LinearLaw, largest_difference

from kinema_sampling import (
    ClassifierFreeGuidance,
    DDPMLaw,
    EDMLaw,
    FlowLaw,
    convert,
    karras,
    shifted,
    trailing,
    uniform,
)

PREDICTIONS = ("x0", "eps", "v")


@pytest.mark.parametrize("law", [FlowLaw(), EDMLaw(), DDPMLaw(), DDPMLaw(schedule="cosine")], ids=repr)
@pytest.mark.parametrize(("source", "target"), list(itertools.product(PREDICTIONS, PREDICTIONS)))
def test_converters_give_the_truth_and_are_inverse_pairs(law, source, target):
    x0, eps = seeded_normal((9, 3), 0).double(), seeded_normal((9, 3), 1).double()
    t = law.times(10, torch.tensor([64]))[1:-1]
    alpha, sigma = law.alpha(t), law.sigma(t)  # (9, 1)
    x_t = alpha * x0 + sigma * eps
    truth = {"x0": x0, "eps": eps, "v": alpha * eps - sigma * x0}
    assert torch.allclose(convert(truth[source], x_t, alpha, sigma, source, target), truth[target], atol=1e-8)
    wrong = seeded_normal((9, 3), 2).double()
    there = convert(wrong, x_t, alpha, sigma, source, target)
    assert torch.allclose(convert(there, x_t, alpha, sigma, target, source), wrong, atol=1e-8)


def test_unknown_prediction():
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match="velocity"):
        convert(one, one, one, one, "velocity", "x0")


def test_schedules_fall_to_exactly_zero():
    for times in (karras(10), uniform(10), trailing(10), shifted(trailing(10), 5.0)):
        assert times.shape == (11,) and times.dtype == torch.float64
        assert (times.diff() < 0).all() and times[-1] == 0
    assert karras(10)[0].item() == pytest.approx(80) and karras(10)[-2].item() == pytest.approx(0.002)
    assert uniform(10)[0] == 1 and uniform(10)[-2].item() == pytest.approx(1e-3)
    assert torch.allclose(trailing(4), torch.tensor([1, 0.75, 0.5, 0.25, 0], dtype=torch.float64))
    for schedule in (karras, uniform, trailing):
        assert len(schedule(1)) == 2
        with pytest.raises(ValueError, match="-3"):
            schedule(-3)


def test_shift_multiplies_the_noise_ratio_and_composes():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    moved = shifted(t, 3.0)
    assert torch.allclose(moved[:-1] / (1 - moved[:-1]), 3 * t[:-1] / (1 - t[:-1]))
    assert moved[0] == 0 and moved[-1] == 1
    assert torch.allclose(shifted(moved, 1 / 3), t) and torch.allclose(shifted(moved, 2.0), shifted(t, 6.0))


class TestClassifierFreeGuidance(GuidanceContract):
    def make(self):
        return guidances.build({"name": "cfg", "scale": 3.0})


def branches(asked):
    known = {"cond": seeded_normal((16, 3), 1), "uncond": seeded_normal((16, 3), 2)}

    def predict(names):
        asked.append(tuple(names))
        return tuple(known[name] for name in names)

    return predict, known["cond"], known["uncond"]


def test_guidance_extrapolates_in_one_pack():
    x, asked = Ragged.from_clips([seeded_normal((3, 1, 4, 4), 0)]), []
    predict, cond, uncond = branches(asked)
    t = torch.full((16,), 0.5)
    out = ClassifierFreeGuidance(scale=3.0).start(x, LinearLaw())(predict, x.values, t)
    assert largest_difference(out, 3 * cond - 2 * uncond) < 1e-6 and asked == [("cond", "uncond")]
    assert torch.equal(ClassifierFreeGuidance(scale=0.0).start(x, LinearLaw())(predict, x.values, t), uncond)
    asked.clear()
    assert torch.equal(ClassifierFreeGuidance(scale=1.0).start(x, LinearLaw())(predict, x.values, t), cond)
    assert asked == [("cond",)], "no guidance costs no second branch"


@pytest.mark.parametrize("law", [LinearLaw(), EDMLaw()], ids=["linear", "edm"])
def test_guidance_interval_is_in_noise_level_and_cell_by_cell(law):
    x, asked = Ragged.from_clips([seeded_normal((3, 1, 4, 4), 0)]), []
    predict, cond, uncond = branches(asked)
    level = torch.linspace(0, 0.95, 16, dtype=torch.float64)
    t = law.time_at(2 * torch.log((1 - level) / level))
    guide = ClassifierFreeGuidance(scale=2.0, interval=[0.2, 0.6]).start(x, law)
    inside = ((level > 0.2) & (level < 0.6))[:, None]
    assert largest_difference(guide(predict, x.values, t), torch.where(inside, 2 * cond - uncond, cond)) < 1e-6
    asked.clear()
    guide(predict, x.values, torch.full((16,), 1e-3))
    assert asked == [("cond",)]


@pytest.mark.parametrize("interval", [(0.5, 0.2), (0.0, 2.0), (0.1,)])
def test_guidance_refuses_an_interval_that_is_none(interval):
    with pytest.raises(ValueError, match="interval"):
        ClassifierFreeGuidance(interval=interval)
