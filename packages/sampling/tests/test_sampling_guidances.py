"""Guidances: the contract, the formulas of the papers clip by clip, and what each is in its limits."""

import pytest
import torch
from kinema_core import Ragged, guidances, seeded_normal
from kinema_core.testing import GuidanceContract, LinearLaw, largest_difference

from kinema_sampling import (
    ClassifierFreeGuidance,
    EDMLaw,
    FlowLaw,
    IntervalGuidance,
    ProjectedGuidance,
    RescaledGuidance,
    ZeroStarGuidance,
)

GUIDANCES = {
    "cfg": ClassifierFreeGuidance(scale=3.0),
    "cfg_rescale": RescaledGuidance(scale=3.0),
    "cfg_zero_star": ZeroStarGuidance(scale=3.0),
    "apg": ProjectedGuidance(scale=3.0, max_norm=0.5),
    "interval": IntervalGuidance(base=RescaledGuidance(scale=3.0), interval=(0.1, 0.8)),
}
SIZES = [(2, 3, 4), (1, 4, 4)]


class TestGuidances(GuidanceContract):
    @pytest.fixture(autouse=True, params=GUIDANCES.keys())
    def guidance_under_test(self, request):
        self.make = lambda: GUIDANCES[request.param]


def pack(seed: int = 0) -> Ragged:
    return Ragged.from_clips([seeded_normal((3, *size), seed, i) for i, size in enumerate(SIZES)])


def both():
    x, cond, uncond = pack(), pack(1).values, pack(2).values
    return x, cond, uncond, lambda names: tuple({"cond": cond, "uncond": uncond}[name] for name in names)


def clips(x: Ragged, values: torch.Tensor) -> list[torch.Tensor]:
    return x.replace(values).clips()


def test_all_are_registered_and_nest():
    assert set(GUIDANCES) <= set(guidances.names())
    built = guidances.build({"name": "interval", "base": {"name": "apg", "eta": 0.5}, "interval": [0.3, 0.9]})
    assert built == IntervalGuidance(base=ProjectedGuidance(eta=0.5), interval=[0.3, 0.9])


@pytest.mark.parametrize("name", GUIDANCES)
def test_a_clip_is_guided_as_if_it_were_alone(name):
    x, cond, uncond, predict = both()
    t = x.per_cell(torch.tensor([0.5, 0.3]))
    together = GUIDANCES[name].start(x, LinearLaw())(predict, x.values, t)
    parts = [x.replace(v).clips() for v in (x.values, cond, uncond)]
    for i, found in enumerate(clips(x, together)):
        alone, one, other = (Ragged.from_clips([part[i]]) for part in parts)
        known = {"cond": one.values, "uncond": other.values}
        t_alone = torch.full((len(alone.values),), [0.5, 0.3][i])
        out = GUIDANCES[name].start(alone, LinearLaw())(
            lambda names, known=known: tuple(known[n] for n in names), alone.values, t_alone
        )
        assert largest_difference(alone.replace(out).clips()[0], found) < 1e-6


def test_rescaling_keeps_the_deviation_of_each_clip():
    x, cond, _, predict = both()
    t = torch.full((len(x.values),), 0.5)
    out = RescaledGuidance(scale=5.0, rescale=1.0).start(x, LinearLaw())(predict, x.values, t)
    for found, wanted in zip(clips(x, out), clips(x, cond), strict=True):
        assert abs(found.std(correction=0) - wanted.std(correction=0)) < 1e-5
    plain = ClassifierFreeGuidance(scale=5.0).start(x, LinearLaw())(predict, x.values, t)
    none = RescaledGuidance(scale=5.0, rescale=0.0).start(x, LinearLaw())(predict, x.values, t)
    assert largest_difference(none, plain) < 1e-6


@pytest.mark.parametrize("law", [FlowLaw(), EDMLaw()], ids=["flow", "edm"])
def test_zero_star_is_the_paper_in_velocities(law):
    x, cond, uncond, predict = both()
    level = 0.6  # t of the straight line
    t = law.time_at(2 * torch.log(torch.tensor((1 - level) / level))).expand(len(x.values))
    out = ZeroStarGuidance(scale=3.0).start(x, law)(predict, x.values, t)
    straight = x.values / (law.alpha(t) + law.sigma(t))[:, None]
    for i, found in enumerate(clips(x, (straight - out) / level)):
        v_cond, v_uncond = (clips(x, (straight - part) / level)[i] for part in (cond, uncond))
        s = (v_cond * v_uncond).sum() / v_uncond.square().sum()
        assert largest_difference(found, s * v_uncond + 3 * (v_cond - s * v_uncond)) < 1e-5
    # At rest at first: the estimate of no velocity is the noisy value itself.
    late = torch.full_like(t, 0.999 if isinstance(law, FlowLaw) else 80.0)
    still = ZeroStarGuidance(zero_above=0.98).start(x, law)(predict, x.values, late)
    assert largest_difference(still, x.values / (law.alpha(late) + law.sigma(late))[:, None]) < 1e-6
    clean = ZeroStarGuidance().start(x, law)(predict, x.values, torch.zeros_like(t))
    assert torch.isfinite(clean).all()


def test_projection_is_the_paper():
    x, cond, uncond, predict = both()
    t = torch.full((len(x.values),), 0.5)
    guide = ProjectedGuidance(scale=4.0, eta=0.3, momentum=-0.5, max_norm=0.7).start(x, LinearLaw())
    running = [torch.zeros(())] * len(SIZES)
    for _ in range(3):
        out = clips(x, guide(predict, x.values, t))
        for i, (c, u) in enumerate(zip(clips(x, cond), clips(x, uncond), strict=True)):
            running[i] = (c - u) - 0.5 * running[i]
            d = running[i] * min(1.0, 0.7 * c.numel() ** 0.5 / running[i].norm().item())
            parallel = (d * c).sum() / c.square().sum() * c
            assert largest_difference(out[i], c + 3 * ((d - parallel) + 0.3 * parallel)) < 1e-5
    plain = ProjectedGuidance(scale=4.0, eta=1.0, momentum=0.0).start(x, LinearLaw())(predict, x.values, t)
    assert largest_difference(plain, 4 * cond - 3 * uncond) < 1e-5


def test_an_interval_saves_the_second_branch_outside():
    x, cond, _, _ = both()
    asked: list[tuple[str, ...]] = []

    def predict(names):
        asked.append(tuple(names))
        return tuple({"cond": cond, "uncond": pack(2).values}[name] for name in names)

    guide = IntervalGuidance(base=ProjectedGuidance(scale=3.0), interval=(0.4, 0.6)).start(x, LinearLaw())
    assert torch.equal(guide(predict, x.values, torch.full((len(x.values),), 0.9)), cond)
    mixed = x.per_cell(torch.tensor([0.5, 0.9]))
    first, second = clips(x, guide(predict, x.values, mixed))
    assert asked == [("cond",), ("cond", "uncond")]
    assert torch.equal(second, clips(x, cond)[1]) and not torch.equal(first, clips(x, cond)[0])


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: RescaledGuidance(rescale=2.0), "rescale = 2.0"),
        (lambda: ZeroStarGuidance(zero_above=0.0), "zero_above = 0.0"),
        (lambda: ProjectedGuidance(momentum=-1.0), "momentum = -1.0"),
        (lambda: ProjectedGuidance(max_norm=0.0), "max_norm = 0.0"),
        (lambda: IntervalGuidance(interval=(0.9, 0.1)), "interval"),
    ],
)
def test_values_out_of_range_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()
