"""The laws: contract, closed forms, preconditioning against the papers' own formulas, and a loss finite everywhere."""

import math

import pytest
import torch
from kinema_core import Conditioning, Diffusion, Ragged, diffusions, seeded_normal
from kinema_core.testing import DiffusionContract
from torch import Tensor

from kinema_sampling import DDPMLaw, EDMLaw, FlowLaw, noise_level

LAWS: dict[str, Diffusion] = {
    "flow": FlowLaw(),
    "flow sized": FlowLaw(base_shift=2.6, max_shift=7.8, uniform_share=0.0),
    "edm": EDMLaw(),
    "ddpm v": DDPMLaw(),
    "ddpm eps": DDPMLaw(prediction="eps", spacing="uniform"),
    "ddpm x0": DDPMLaw(prediction="x0"),
    "ddpm v cosine": DDPMLaw(schedule="cosine"),
    "ddpm v zero": DDPMLaw(zero_terminal_snr=True),
    "ddpm x0 cosine zero": DDPMLaw(prediction="x0", schedule="cosine", zero_terminal_snr=True),
    "ddpm v min-snr": DDPMLaw(min_snr=5.0),
    "ddpm eps min-snr": DDPMLaw(prediction="eps", min_snr=5.0),
    "ddpm x0 min-snr": DDPMLaw(prediction="x0", min_snr=5.0),
}
each_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())


class LawContract(DiffusionContract):
    @pytest.fixture(autouse=True, params=LAWS.keys())
    def law_under_test(self, request):
        self.make = lambda: LAWS[request.param]


class TestLaws(LawContract):
    pass


def test_laws_are_registered_with_their_settings():
    assert {"ddpm", "edm", "flow"} <= set(diffusions.names())
    law = diffusions.build({"name": "ddpm", "prediction": "x0", "min_snr": 5})
    assert law == DDPMLaw(prediction="x0", min_snr=5)
    assert diffusions.origin("flow")[0] == "kinema-sampling"


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: DDPMLaw(prediction="eps", zero_terminal_snr=True), "eps"),
        (lambda: DDPMLaw(prediction="velocity"), "velocity"),
        (lambda: DDPMLaw(schedule="sigmoid"), "sigmoid"),
        (lambda: DDPMLaw(min_snr=0), "0"),
        (lambda: EDMLaw(sigma_min=90), "90"),
        (lambda: EDMLaw(rho=0), "rho"),
        (lambda: FlowLaw(shift=0), "shift"),
        (lambda: FlowLaw(uniform_share=2), "2"),
        (lambda: FlowLaw(base_tokens=5000), "5000"),
        (lambda: FlowLaw().times(0, torch.tensor([64])), "0"),
    ],
)
def test_values_out_of_range_are_named(build, named):
    with pytest.raises(ValueError, match=named):
        build()


# Closed forms


def test_linear_ddpm_is_the_product_of_the_discrete_steps():
    """Ho et al. 2020: alpha_bar is the product of 1 - beta over 1000 steps from 1e-4 to 0.02."""
    steps = torch.tensor([100, 250, 500, 750])
    alpha_bar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)[steps - 1]
    law = DDPMLaw()
    assert torch.allclose(2 * law.alpha(steps / 1000.0).double().log(), alpha_bar.log(), rtol=1e-2)
    assert law.alpha(torch.ones(1)).item() == pytest.approx(math.exp(-5.025), rel=1e-4)


def test_cosine_ddpm_is_the_paper_formula():
    """Nichol & Dhariwal 2021, eq. 17, up to the step the paper clips."""
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    f = torch.cos((0.999 * t + 0.008) / 1.008 * math.pi / 2)
    law = DDPMLaw(schedule="cosine")
    assert torch.allclose(law.alpha(t), f / f[0], atol=1e-12)
    assert 0 < law.alpha(t)[-1] < 2e-3


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_zero_terminal_snr_is_the_shift_and_scale_of_the_paper(schedule):
    """Lin et al. 2023, algorithm 1, on sqrt(alpha_bar)."""
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    plain = DDPMLaw(schedule=schedule).alpha(t)
    law = DDPMLaw(schedule=schedule, zero_terminal_snr=True)
    assert torch.allclose(law.alpha(t), (plain - plain[-1]) / (plain[0] - plain[-1]), atol=1e-12)
    for dtype in (torch.float32, torch.float64):
        assert (law.alpha(torch.ones(13, dtype=dtype)) == 0).all()
        assert (law.sigma(torch.ones(13, dtype=dtype)) == 1).all()


@pytest.mark.parametrize("name", [name for name in LAWS if name.startswith("ddpm")])
def test_ddpm_preserves_variance_and_keeps_digits_near_zero(name):
    law = LAWS[name]
    t = torch.logspace(-6, 0, 40, dtype=torch.float64)
    assert torch.allclose(law.alpha(t).square() + law.sigma(t).square(), torch.ones_like(t), atol=1e-12)
    assert torch.allclose(law.sigma(t.float()).double(), law.sigma(t), rtol=1e-4)
    log_snr = 2 * (law.alpha(t[:-1]).log() - law.sigma(t[:-1]).log())
    assert torch.allclose(law.time_at(log_snr), t[:-1], rtol=1e-6)


@each_law
def test_time_at_stays_in_the_range_of_the_law(law):
    first = law.times(10, torch.tensor([64]))[0]
    ends = law.time_at(torch.tensor([-torch.inf, -200.0, 200.0, torch.inf], dtype=torch.float64))
    assert torch.allclose(ends[:2], first.expand(2), atol=1e-6) and (ends[2:] < 1e-6).all() and (ends >= 0).all()


@each_law
def test_noise_level_is_a_function_of_the_snr_alone(law):
    t = law.times(20, torch.tensor([64]))[:, 0]
    level = noise_level(law, t)
    assert level[-1] == 0 and level[0] <= 1 and (level.diff() < 0).all()
    log_snr = 2 * (law.alpha(t[1:-1]).log() - law.sigma(t[1:-1]).log())
    assert torch.allclose(level[1:-1], torch.sigmoid(-log_snr / 2))


# Preconditioning: the estimate and the loss against the formulas of the papers


def a_net(x: Ragged, noise: Tensor, _: Conditioning) -> Tensor:
    """Any function of both inputs."""
    return torch.sin(3 * x.values) + noise[:, None]


def some_cells() -> tuple[Ragged, Tensor]:
    clips = [seeded_normal((3, 2, 4, 4), 0).double(), seeded_normal((3, 1, 4, 4), 1).double()]
    return Ragged.from_clips(clips), seeded_normal((48, 3), 2).double()


def test_edm_is_table_1_of_the_paper():
    law, (x0, noise) = EDMLaw(), some_cells()
    t = torch.logspace(-2, 1.5, 48, dtype=torch.float64)
    sigma = t[:, None]
    x = x0.values + sigma * noise
    c_skip, c_out, c_in = 1 / (sigma**2 + 1), sigma / (1 + sigma**2).sqrt(), 1 / (1 + sigma**2).sqrt()
    expected = c_skip * x + c_out * a_net(x0.replace(c_in * x), t / (1 + t), Conditioning())
    assert torch.allclose(law.denoise(a_net, x0.replace(x), t, Conditioning()), expected, atol=1e-12)
    weighted = ((1 + t**2) / t**2) * (expected - x0.values).square().mean(-1)
    loss = law.loss(a_net, x0, noise, t, Conditioning(), torch.ones(48, dtype=torch.bool))
    assert torch.allclose(loss, torch.stack([weighted[:32].mean(), weighted[32:].mean()]), rtol=1e-9)


def test_flow_predicts_the_velocity():
    law, (x0, noise) = FlowLaw(), some_cells()
    t = torch.linspace(0.01, 1, 48, dtype=torch.float64)
    x = (1 - t[:, None]) * x0.values + t[:, None] * noise
    velocity = a_net(x0.replace(x), t, Conditioning())
    assert torch.allclose(law.denoise(a_net, x0.replace(x), t, Conditioning()), x - t[:, None] * velocity, atol=1e-12)
    error = (velocity - (noise - x0.values)).square().mean(-1)
    loss = law.loss(a_net, x0, noise, t, Conditioning(), torch.ones(48, dtype=torch.bool))
    assert torch.allclose(loss, torch.stack([error[:32].mean(), error[32:].mean()]))


@pytest.mark.parametrize("prediction", ["v", "eps", "x0"])
@pytest.mark.parametrize("gamma", [5.0, 0.5])
def test_min_snr_weighs_the_error_of_the_clean_estimate(prediction, gamma):
    """Hang et al. 2023: min(SNR, gamma) |x0 - estimate|^2, whatever is predicted."""
    law, (x0, noise) = DDPMLaw(prediction=prediction, min_snr=gamma), some_cells()
    t = torch.linspace(0.02, 1, 48, dtype=torch.float64)
    alpha, sigma = law.alpha(t)[:, None], law.sigma(t)[:, None]
    x_t = x0.replace(alpha * x0.values + sigma * noise)
    snr = (alpha / sigma).square()[:, 0]
    error = (law.denoise(a_net, x_t, t, Conditioning()) - x0.values).square().mean(-1)
    weighted = snr.clamp(max=gamma) * error
    loss = law.loss(a_net, x0, noise, t, Conditioning(), torch.ones(48, dtype=torch.bool))
    assert torch.allclose(loss, torch.stack([weighted[:32].mean(), weighted[32:].mean()]), rtol=1e-8)


@each_law
def test_the_best_output_gives_loss_zero_and_the_clean_data(law):
    """A network that outputs the target at every t, ends included, has no loss and denoises exactly."""
    x0, noise = some_cells()
    t = law.times(47, torch.tensor([64]))[:, 0]
    alpha, sigma = law.alpha(t)[:, None], law.sigma(t)[:, None]
    p, q = law.target_scales(t)

    def perfect(x: Ragged, level: Tensor, cond: Conditioning) -> Tensor:
        return p[:, None] * x0.values + q[:, None] * noise

    loss = law.loss(perfect, x0, noise, t, Conditioning(), torch.ones(48, dtype=torch.bool))
    assert loss.abs().max() < 1e-20
    x_t = x0.replace(alpha * x0.values + sigma * noise)
    assert torch.allclose(law.denoise(perfect, x_t, t, Conditioning()), x0.values, atol=1e-9)


@each_law
def test_clean_cells_are_their_own_estimate_exactly_even_with_float64_times(law):
    x = Ragged.from_clips([seeded_normal((3, 1, 4, 4), 0)])
    t = law.times(16, torch.tensor([16]))[1:, 0]
    t = torch.where(torch.arange(16) % 3 == 0, 0, t)
    x0 = law.denoise(a_net, x, t, Conditioning())
    assert x0.dtype == torch.float32
    assert torch.equal(x0[t == 0], x.values[t == 0])
    assert not torch.isclose(x0[t > 0], x.values[t > 0]).all()


@each_law
def test_loss_and_gradients_are_finite_at_every_t_with_kept_cells(law):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.SiLU(), torch.nn.Linear(16, 3))
    x0 = Ragged.from_clips([seeded_normal((3, 2, 8, 8), 0), seeded_normal((3, 1, 8, 8), 1)])
    noise = seeded_normal((192, 3), 2)
    free = torch.rand(192, generator=torch.Generator().manual_seed(3)) > 0.3
    largest = law.times(1, torch.tensor([64]))[0].float()
    tried = torch.cat([torch.zeros(1), torch.logspace(-8, 0, 25) * largest])
    for t in tried:
        net.zero_grad()
        loss = law.loss(
            lambda x, level, _: net(torch.cat([x.values, level[:, None]], 1)),
            x0,
            noise,
            t.expand(192),
            Conditioning(),
            free,
        )
        loss.sum().backward()
        assert torch.isfinite(loss).all() and (loss < 1e3).all()
        for parameter in net.parameters():
            assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().max() < 1e3
        alone = law.loss(
            lambda x, level, _: net(torch.cat([x.values, level[:, None]], 1)),
            x0.replace(torch.where(free[:, None], x0.values, 7.0)),
            noise,
            t.expand(192),
            Conditioning(),
            free,
        )
        assert torch.equal(alone, loss), "a kept cell's value does not reach the loss of the others"


# Training and sampling times


def test_flow_times_are_logit_normal_with_a_uniform_share():
    sizes = torch.full((100_000,), 64)
    logit = torch.logit(
        FlowLaw(time_mean=0.7, time_std=1.4, uniform_share=0.0)
        .sample_times(sizes, torch.Generator().manual_seed(0))
        .double()
    )
    assert logit.mean().item() == pytest.approx(0.7, abs=0.02) and logit.std().item() == pytest.approx(1.4, abs=0.02)
    narrow = FlowLaw(time_std=0.01, uniform_share=0.25).sample_times(sizes, torch.Generator().manual_seed(0))
    even = narrow[(narrow - 0.5).abs() > 0.05]
    assert len(even) / len(sizes) == pytest.approx(0.25 * 0.9, abs=0.01)
    assert even.mean().item() == pytest.approx(0.5, abs=0.01)


def test_flow_shift_grows_with_the_size_of_the_clip():
    law = FlowLaw(shift=2.0, base_shift=2.0, max_shift=8.0, uniform_share=0.0, time_std=1e-6)
    sizes = torch.tensor([16, 1024, 2560, 4096, 100_000])
    expected = torch.tensor([2.0, 2.0, 4.0, 8.0, 8.0], dtype=torch.float64)
    t = law.times(10, sizes)[5]
    assert torch.allclose(t / (1 - t), 2 * expected)
    t = law.sample_times(sizes).double()
    assert torch.allclose(t / (1 - t), expected, rtol=1e-4)


def test_edm_times():
    law = EDMLaw(time_mean=-0.5, time_std=1.2)
    drawn = law.sample_times(torch.full((100_000,), 64), torch.Generator().manual_seed(0)).log()
    assert drawn.mean().item() == pytest.approx(-0.5, abs=0.02) and drawn.std().item() == pytest.approx(1.2, abs=0.02)
    wide = EDMLaw(time_mean=3.0, time_std=3.0).sample_times(torch.full((1000,), 64), torch.Generator().manual_seed(0))
    assert wide.max() == 80.0
    times = law.times(18, torch.tensor([64]))[:, 0]
    i = torch.arange(18, dtype=torch.float64)
    paper = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert torch.allclose(times[:-1], paper) and times[-1] == 0


def test_ddpm_times():
    drawn = DDPMLaw().sample_times(torch.full((10_000,), 64), torch.Generator().manual_seed(0))
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.01) and drawn.min() > 0 and drawn.max() <= 1
    assert torch.allclose(DDPMLaw().times(4, torch.tensor([1]))[:, 0].float(), torch.tensor([1, 0.75, 0.5, 0.25, 0]))
    even = DDPMLaw(spacing="uniform").times(4, torch.tensor([1]))[:, 0].float()
    assert torch.allclose(even, torch.tensor([1, 0.667, 0.334, 0.001, 0]))


@each_law
def test_one_step_and_per_clip_draws(law):
    assert law.times(1, torch.tensor([64])).shape == (2, 1)
    alone = law.sample_times(torch.tensor([64]), torch.Generator().manual_seed(5))
    again = law.sample_times(torch.tensor([64]), torch.Generator().manual_seed(5))
    assert alone.dtype == torch.float32 and torch.equal(alone, again)
