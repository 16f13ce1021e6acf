"""The samplers: contract with every law, order of convergence, kept cells, identities between members."""

import math

import pytest
import torch
from kinema_core import Conditioning, Diffusion, Ragged, samplers, seeded_normal
from kinema_core.testing import SamplerContract, gaussian_denoiser
from torch import Tensor

from kinema_sampling import (
    DDIMSampler,
    DDPMLaw,
    DDPMSampler,
    DPMpp2MSampler,
    DPMpp2MSDESampler,
    EDMLaw,
    EDMSampler,
    EulerSampler,
    FlowLaw,
    SDEditSampler,
    UniPCSampler,
)

LAWS: dict[str, Diffusion] = {
    "flow": FlowLaw(),
    "edm": EDMLaw(),
    "ddpm": DDPMLaw(),
    "ddpm x0 uniform": DDPMLaw(prediction="x0", spacing="uniform"),
    "ddpm cosine eps": DDPMLaw(schedule="cosine", prediction="eps"),
    "ddpm zero": DDPMLaw(zero_terminal_snr=True),
}
SAMPLERS = {
    "ddpm": DDPMSampler(),
    "ddim": DDIMSampler(),
    "ddim eta": DDIMSampler(eta=0.5),
    "euler": EulerSampler(),
    "edm": EDMSampler(),
    "edm churn": EDMSampler(s_churn=20.0, s_min=0.05, s_max=50.0),
    "dpmpp_2m": DPMpp2MSampler(),
    "dpmpp_2m_sde": DPMpp2MSDESampler(),
    "unipc": UniPCSampler(),
}
EDITS = {f"sdedit {name}": SDEditSampler(base=base, strength=0.7) for name, base in SAMPLERS.items()}
MEAN, STD = 0.5, 0.7
each_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())


class TestSamplers(SamplerContract):
    """Default schedules, both ends included. `test_mean_and_deviation_are_recovered` has all laws, and exactly."""

    num_steps = 100  # with 60 the ancestral sampler's bias alone is 0.06

    @pytest.fixture(autouse=True, params=SAMPLERS.keys())
    def sampler_under_test(self, request):
        self.make = lambda: SAMPLERS[request.param]

    def laws(self):
        return [LAWS["flow"], LAWS["edm"], LAWS["ddpm"]]


class TestSDEdit(SamplerContract):
    """SDEdit starts from clean data; what comes out is distributed as what went in."""

    num_steps = 100

    @pytest.fixture(autouse=True, params=EDITS.keys())
    def sampler_under_test(self, request):
        self.make = lambda: EDITS[request.param]

    def laws(self):
        return [LAWS["flow"], LAWS["edm"], LAWS["ddpm"]]

    def start(self, law, num):
        return MEAN + STD * seeded_normal((num, 64), 3).double()


def test_samplers_are_registered_and_nest():
    assert {"ddim", "ddpm", "dpmpp_2m", "dpmpp_2m_sde", "edm", "euler", "sdedit", "unipc"} <= set(samplers.names())
    built = samplers.build({"name": "sdedit", "strength": 0.5, "base": {"name": "ddim", "eta": 1.0}})
    assert built == SDEditSampler(base=DDIMSampler(eta=1.0), strength=0.5)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: DDIMSampler(eta=1.5), "1.5"),
        (lambda: SDEditSampler(strength=-1), "-1"),
        (lambda: EDMSampler(s_churn=-2), "-2"),
        (lambda: EDMSampler(s_min=3, s_max=2), "s_min = 3"),
    ],
)
def test_values_out_of_range_are_named(build, named):
    with pytest.raises(ValueError, match=named):
        build()


# Order of convergence on Gaussian data


def exact(law: Diffusion, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The probability flow from t to s: a Gaussian's standardised value is constant along it."""

    def marginal(time: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = law.alpha(time), law.sigma(time)
        return alpha * MEAN, torch.sqrt(alpha**2 * STD**2 + sigma**2)

    (mean_t, std_t), (mean_s, std_s) = marginal(t), marginal(s)
    return mean_s + std_s * (x - mean_t) / std_t


def final_error(sampler, law: Diffusion, times: Tensor, start: Tensor) -> float:
    times = times[:, None].expand(-1, len(start))
    out = sampler(gaussian_denoiser(law, MEAN, STD), start, times, law, noise=None)
    return (out - exact(law, start, times[0, 0], times[-1, 0])).abs().max().item()


def fitted_order(sampler, law: Diffusion, times) -> float:
    """Minus the slope of log error over log steps, by least squares."""
    start = seeded_normal((8, 4), 5).double()
    steps = torch.tensor([160, 320, 640], dtype=torch.float64)
    errors = torch.tensor([final_error(sampler, law, times(int(n)), start) for n in steps], dtype=torch.float64)
    x, y = steps.log() - steps.log().mean(), errors.log() - errors.log().mean()
    return -(x @ y / (x @ x)).item()


def inner_times(law: Diffusion):
    """From sigma / alpha = 10 to 0.05 in equal steps of the law's own t.

    Theory gives an order for steps that shrink everywhere in log(alpha / sigma), and those are infinite at both ends;
    the whole schedules, ends included, are tested after this.
    """
    ends = law.time_at(-2 * torch.tensor([10, 0.05], dtype=torch.float64).log()).tolist()
    return lambda num_steps: torch.linspace(*ends, num_steps + 1, dtype=torch.float64)


def whole_times(law: Diffusion):
    """The law's default schedule, from its noisiest time to exactly 0."""
    return lambda num_steps: law.times(num_steps, torch.tensor([64]))[:, 0]


ORDERS = {"ddim": 1, "euler": 1, "edm": 2, "dpmpp_2m": 2, "unipc": 3}


@each_law
@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_order_of_convergence(name, order, law):
    fitted = fitted_order(SAMPLERS[name], law, inner_times(law))
    # Equal steps of sigma are large in log(alpha / sigma) at the clean end: order 3 is seen late there.
    assert abs(fitted - order) < (0.25 if order < 3 else 0.35), f"{name}: {fitted:.3f}"


@each_law
def test_first_order_over_the_whole_schedule(law):
    fitted = fitted_order(SAMPLERS["euler"], law, whole_times(law))
    assert abs(fitted - 1) < 0.25, f"{fitted:.3f}"


@pytest.mark.parametrize("law", ["flow", "edm"])
@pytest.mark.parametrize("name", ["edm", "dpmpp_2m"])
def test_second_order_over_the_whole_schedule(name, law):
    """Order 2; for dpmpp_2m from alpha = 0 up to a logarithm.

    Its steps from there are 1, 1/2, 1/3, ... in log(alpha / sigma) at noise ratios S, S/2, S/3, ..., each with an error
    of step^3 / ratio^2, and those sum to log S / S^2.
    """
    fitted = fitted_order(SAMPLERS[name], LAWS[law], whole_times(LAWS[law]))
    assert 1.65 < fitted < 2.25, f"{name}: {fitted:.3f}"


@each_law
@pytest.mark.parametrize("name", ["edm", "dpmpp_2m"])
def test_second_order_is_closer_over_the_whole_schedule(name, law):
    """For ddpm sigma goes as the root of t, so that the last step, first order by necessity, has an error of order
    sigma^2 = 1 / S: there is no order 2, but the constant is small."""
    start = seeded_normal((8, 4), 5).double()
    times = whole_times(law)(160)
    assert final_error(SAMPLERS[name], law, times, start) < final_error(EulerSampler(), law, times, start) / 4


# Mean and deviation


def _skip_where_it_extrapolates_badly(name: str, law: Diffusion) -> None:
    """The README tells of it: over the jump to 0.001 of uniform spacing an extrapolated estimate is far off."""
    if name.endswith("dpmpp_2m_sde") and getattr(law, "spacing", None) == "uniform":
        pytest.skip("a few uniform steps are not for dpmpp_2m_sde")


def exact_moments(sampler, law: Diffusion, num_steps: int) -> tuple[float, float]:
    """Mean and deviation of what the sampler makes of Gaussian data, without drawing any.

    All is linear in the start and in every step's noise, so each contributes by itself: cell 0 has none of them,
    cell 1 the start's deviation, cell 2 + k the noise of step k (the last one: noise -1).
    """
    num = num_steps + 3
    times = law.times(num_steps, torch.tensor([64])).expand(-1, num)
    alpha, sigma = law.alpha(times[0, 0]), law.sigma(times[0, 0])
    mean, std = (MEAN, STD) if isinstance(sampler, SDEditSampler) else (alpha * MEAN, torch.hypot(alpha * STD, sigma))
    x = torch.full((num, 1), mean, dtype=torch.float64)
    x[1] += std

    def noise(step: int) -> Tensor:
        unit = torch.zeros(num, 1, dtype=torch.float64)
        unit[2 + step if step >= 0 else -1] = 1
        return unit

    out = sampler(gaussian_denoiser(law, MEAN, STD), x, times, law, noise=noise)[:, 0]
    return out[0].item(), (out[1:] - out[0]).norm().item()


@each_law
@pytest.mark.parametrize("name", [*SAMPLERS, *EDITS])
def test_mean_and_deviation_are_recovered(name, law):
    """On the default schedule, with a bias that goes down as the first order of the steps or faster."""
    _skip_where_it_extrapolates_badly(name, law)
    few, many = (exact_moments({**SAMPLERS, **EDITS}[name], law, steps) for steps in (40, 160))
    assert abs(few[0] - MEAN) < 0.01 and abs(few[1] - STD) < 0.11
    assert abs(many[0] - MEAN) < 0.002 and abs(many[1] - STD) < max(0.002, 0.35 * abs(few[1] - STD))


# Identities between members


def run(sampler, law: Diffusion, num_steps: int = 12, seed: int = 0, denoise=None, callback=None) -> Tensor:
    times = law.times(num_steps, torch.tensor([64])).expand(-1, 16)
    x = law.sigma(times[0])[:, None] * seeded_normal((16, 3), seed).double()
    denoise = denoise or gaussian_denoiser(law, MEAN, STD)
    return sampler(denoise, x, times, law, noise=lambda k: seeded_normal((16, 3), seed, k).double(), callback=callback)


@each_law
def test_ddim_is_euler_at_eta_0_and_ancestral_at_eta_1(law):
    assert torch.equal(run(DDIMSampler(eta=0.0), law), run(EulerSampler(), law))
    assert torch.allclose(run(DDIMSampler(eta=1.0), law), run(DDPMSampler(), law), atol=1e-9)
    assert not torch.allclose(run(DDIMSampler(eta=0.5), law), run(EulerSampler(), law), atol=1e-3)


def test_ancestral_step_is_the_posterior_of_the_paper():
    """Ho et al. 2020, eq. 7, in alpha_bar and beta of one discrete step."""
    law = DDPMLaw()
    t, s = torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    bar_t, bar_s = law.alpha(t) ** 2, law.alpha(s) ** 2
    beta = 1 - bar_t / bar_s
    x, x0, noise = (seeded_normal((5, 3), i).double() for i in range(3))
    mean = bar_s.sqrt() * beta / (1 - bar_t) * x0 + (1 - beta).sqrt() * (1 - bar_s) / (1 - bar_t) * x
    expected = mean + (beta * (1 - bar_s) / (1 - bar_t)).sqrt() * noise
    times = torch.stack([t, s])[:, None].expand(2, 5)
    out = DDPMSampler()(lambda x_t, _: x0, x, times, law, noise=lambda _: noise)
    assert torch.allclose(out, expected, atol=1e-12)


@each_law
def test_first_order_step_is_ddim_in_alpha_bar(law):
    """x_s = alpha_s x0 + sigma_s eps with the eps that x_t and x0 imply."""
    times = law.times(10, torch.tensor([64]))[4:6].expand(2, 5)
    x, x0 = seeded_normal((5, 3), 0).double(), seeded_normal((5, 3), 1).double()
    (alpha_t, alpha_s), (sigma_t, sigma_s) = law.alpha(times)[..., None], law.sigma(times)[..., None]
    expected = alpha_s * x0 + sigma_s * (x - alpha_t * x0) / sigma_t
    assert torch.allclose(EulerSampler()(lambda *_: x0, x, times, law, noise=None), expected, atol=1e-12)


def test_heun_is_algorithm_1_of_the_paper():
    law, denoise = EDMLaw(), gaussian_denoiser(EDMLaw(), MEAN, STD)
    times = law.times(8, torch.tensor([64]))[:, 0]
    x = expected = 80 * seeded_normal((16, 3), 0).double()
    for t, s in zip(times[:-1], times[1:], strict=True):
        slope = (expected - denoise(expected, t.expand(16))) / t
        ahead = expected + (s - t) * slope
        if s > 0:
            slope = (slope + (ahead - denoise(ahead, s.expand(16))) / s) / 2
        expected = expected + (s - t) * slope
    out = EDMSampler()(denoise, x, times[:, None].expand(-1, 16), law, noise=None)
    assert torch.allclose(out, expected, atol=1e-9)


def test_dpmpp_2m_is_algorithm_2_of_the_paper():
    law, denoise = DDPMLaw(), gaussian_denoiser(DDPMLaw(), MEAN, STD)
    times = torch.linspace(0.9, 0.1, 9, dtype=torch.float64)
    alpha, sigma = law.alpha(times), law.sigma(times)
    lam = (alpha / sigma).log()
    x = expected = seeded_normal((16, 3), 0).double()
    buffer = [denoise(x, times[:1].expand(16))]
    expected = sigma[1] / sigma[0] * x - alpha[1] * (torch.exp(-(lam[1] - lam[0])) - 1) * buffer[0]
    for i in range(2, 9):
        buffer.append(denoise(expected, times[i - 1].expand(16)))
        h, r = lam[i] - lam[i - 1], (lam[i - 1] - lam[i - 2]) / (lam[i] - lam[i - 1])
        d = (1 + 1 / (2 * r)) * buffer[-1] - 1 / (2 * r) * buffer[-2]
        expected = sigma[i] / sigma[i - 1] * expected - alpha[i] * (torch.exp(-h) - 1) * d
    out = DPMpp2MSampler()(denoise, x, times[:, None].expand(-1, 16), law, noise=None)
    assert torch.allclose(out, expected, atol=1e-12)


def test_churn_raises_the_noise_by_the_paper_factor():
    """Algorithm 2: t_hat = t + gamma t with gamma = min(S_churn / N, sqrt 2 - 1), only inside [S_tmin, S_tmax]."""
    for law in LAWS.values():
        seen: list[Tensor] = []
        inner = gaussian_denoiser(law, MEAN, STD)

        def denoise(x, t, inner=inner, seen=seen):
            seen.append(t[0])
            return inner(x, t)

        run(EDMSampler(s_churn=3.0, s_min=0.1, s_max=5.0), law, 12, denoise=denoise)
        asked = torch.stack(seen)
        noise_ratio = law.sigma(asked) / law.alpha(asked)
        planned = law.times(12, torch.tensor([64]))[:-1, 0]
        planned_ratio = law.sigma(planned) / law.alpha(planned)
        inside = (planned_ratio >= 0.1) & (planned_ratio <= 5.0)
        assert inside.any() and not inside.all()
        for ratio, moves in zip(planned_ratio, inside, strict=True):
            expected = ratio * 1.25 if moves else ratio
            near = torch.isclose(noise_ratio, expected, rtol=1e-6) | (noise_ratio == expected)
            assert near.any(), f"{law}: no estimate at {expected:.4f}"


def test_callback_gives_step_and_estimate_in_order():
    for name, sampler in {**SAMPLERS, **EDITS}.items():
        seen: list[tuple[int, Tensor]] = []
        out = run(sampler, FlowLaw(), 10, callback=lambda k, x0, seen=seen: seen.append((k, x0)))
        first = 3 if name in EDITS else 0
        assert [k for k, _ in seen] == list(range(first, 10))
        assert torch.allclose(seen[-1][1], out, atol=1e-12), "the last step ends on the clean estimate"


# SDEdit


@each_law
def test_sdedit_runs_the_last_steps_from_noised_latents(law):
    times = law.times(10, torch.tensor([64])).expand(-1, 16)
    clean = seeded_normal((16, 3), "clean").double()
    seen: list[Tensor] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        seen.extend([x, t])
        return x

    SDEditSampler(base=EulerSampler(), strength=0.4)(
        denoise, clean, times, law, noise=lambda k: seeded_normal((16, 3), k).double()
    )
    t = times[6]
    expected = law.alpha(t)[:, None] * clean + law.sigma(t)[:, None] * seeded_normal((16, 3), -1).double()
    assert len(seen) == 8 and torch.equal(seen[1], t) and torch.allclose(seen[0], expected)


def test_sdedit_ends_of_strength():
    law = FlowLaw()
    clean = seeded_normal((16, 3), "clean").double()
    times = law.times(10, torch.tensor([64])).expand(-1, 16)
    arguments = (gaussian_denoiser(law, MEAN, STD), clean, times, law)
    steps: list[int] = []

    def noise(k: int) -> Tensor:
        steps.append(k)
        return seeded_normal((16, 3), k).double()

    assert torch.equal(SDEditSampler(strength=0.0)(*arguments, noise=noise), clean)
    base = DDPMSampler()
    whole = SDEditSampler(base=base, strength=1.0)(*arguments, noise=noise)
    assert torch.allclose(whole, base(arguments[0], noise(-1), times, law, noise=noise), atol=1e-12)
    steps.clear()
    SDEditSampler(base=base, strength=0.3)(*arguments, noise=noise)
    assert steps == [-1, 7, 8, 9], "noise keeps the step numbers of the whole schedule"


def test_sdedit_keeps_of_the_given_what_the_noise_leaves():
    """The flow moves x_t linearly for Gaussian data, so out and given correlate as x_t and given do."""
    law = FlowLaw()
    clean = MEAN + STD * seeded_normal((512, 8), "clean").double()
    times = law.times(40, torch.tensor([64])).expand(-1, 512)
    for strength in (0.2, 0.5, 0.8, 1.0):
        out = SDEditSampler(strength=strength)(
            gaussian_denoiser(law, MEAN, STD), clean, times, law, noise=lambda k: seeded_normal((512, 8), k).double()
        )
        likeness = torch.corrcoef(torch.stack([out.flatten(), clean.flatten()]))[0, 1].item()
        t = times[40 - round(40 * strength), 0].item()
        assert likeness == pytest.approx(STD * (1 - t) / math.hypot(STD * (1 - t), t), abs=0.04)


# Kept cells


def optimal_net(law, mean: float, std: float):
    """The network output that makes `law.denoise` the exact denoiser of N(mean, std^2), as float32 cells."""

    def net(x: Ragged, noise: Tensor, _: Conditioning) -> Tensor:
        t = law.time_at(2 * torch.log((1 - noise) / noise))
        x_t = x.values / law.input_scale(t)[:, None]
        alpha, sigma = law.alpha(t)[:, None], law.sigma(t)[:, None]
        variance = sigma**2 + std**2 * alpha**2
        x0 = (mean * sigma**2 + std**2 * alpha * x_t) / variance
        eps = sigma * (x_t - alpha * mean) / variance
        p, q = law.target_scales(t)
        return p[:, None] * x0 + q[:, None] * eps

    return net


@each_law
@pytest.mark.parametrize("name", [*SAMPLERS, *EDITS])
@pytest.mark.parametrize("own_times", [False, True], ids=["times run down", "times all 0"])
def test_kept_cells_come_out_as_given_and_free_ones_are_sampled(name, law, own_times):
    """As the keep wrapper does it: kept cells enter clean, with t = 0, whatever the sampler has made of them."""
    _skip_where_it_extrapolates_badly(name, law)
    sampler = {**SAMPLERS, **EDITS}[name]
    clips = [seeded_normal((4, 5, 8, 8), 0), seeded_normal((4, 1, 8, 8), 1)]
    given = Ragged.from_clips([MEAN + STD * clip for clip in clips])
    num = len(given.values)
    keep = torch.rand(num, generator=torch.Generator().manual_seed(2)) < 0.3
    times = given.per_cell(law.times(16, torch.tensor(given.lengths)).T).T
    if own_times:
        times = torch.where(keep, 0, times)
    net = optimal_net(law, MEAN, STD)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        clean = given.replace(torch.where(keep[:, None], given.values, x))
        return law.denoise(net, clean, torch.where(keep, 0, t), Conditioning())

    def noise(step: int) -> Tensor:
        return seeded_normal((num, 4), "noise", step)

    first = law.sigma(times[0]).float()[:, None] * noise(-1)
    x = given.values if name in EDITS else torch.where(keep[:, None], given.values, first)
    out = sampler(denoise, x, times, law, noise=noise)
    assert out.dtype == torch.float32 and torch.isfinite(out).all()
    assert (out - given.values)[keep].abs().max() < 1e-5
    free = out[~keep]
    assert abs(free.mean().item() - MEAN) < 0.1 and 0.45 < free.std().item() < 0.9
    assert (free - given.values[~keep]).abs().max() > 0.1


@pytest.mark.parametrize("name", [*SAMPLERS, *EDITS])
def test_cells_go_by_their_own_times(name):
    """Cells of other schedules in the same run, held ones included, change nothing for a cell."""
    sampler, law = {**SAMPLERS, **EDITS}[name], FlowLaw()
    even = law.times(12, torch.tensor([64]))[:, 0]
    held = torch.cat([even[:5], even[4:5].expand(3), even[5:10]])
    held[-1] = 0
    times = torch.stack([even, torch.zeros(13), held, even.square(), even], 1)
    x = seeded_normal((5, 3), 0).double()

    def noise(cells):
        return lambda k: seeded_normal((5, 3), "noise", k).double()[cells]

    whole = sampler(gaussian_denoiser(law, MEAN, STD), x, times, law, noise=noise(slice(None)))
    assert torch.isfinite(whole).all()
    for cell in range(5):
        at = slice(cell, cell + 1)
        alone = sampler(gaussian_denoiser(law, MEAN, STD), x[at], times[:, at], law, noise=noise(at))
        assert torch.allclose(alone, whole[at], atol=1e-12)


def test_evaluations_a_step():
    law = FlowLaw()
    for name, expected in {"euler": 12, "dpmpp_2m": 12, "ddpm": 12, "edm": 22}.items():
        calls = 0

        def denoise(x, t):
            nonlocal calls
            calls += 1
            return gaussian_denoiser(law, MEAN, STD)(x, t)

        run(SAMPLERS[name], law, 12, denoise=denoise)
        assert calls == expected, f"{name}: Heun saves the second evaluation at alpha = 0 and at the last step"


@each_law
def test_the_stochastic_multistep_sampler_is_the_plain_one_at_eta_0(law):
    assert torch.equal(run(DPMpp2MSDESampler(eta=0.0), law), run(DPMpp2MSampler(), law))
    with pytest.raises(ValueError, match=r"eta = 1\.5"):
        DPMpp2MSDESampler(eta=1.5)
