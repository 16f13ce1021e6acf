"""Whole trajectories against diffusers' schedulers: the same model function, noise and noise levels, in float64."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from kinema_core import Diffusion, seeded_normal
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
    UniPCSampler,
)

STEPS, SHAPE = 12, (16, 3)
BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}


def clean(x: Tensor, ratio: Tensor) -> Tensor:
    """Some estimate of x0 (N, C), given sigma / alpha: neither linear nor a function of one of them alone."""
    return torch.tanh(0.8 * x / (1 + ratio)) + 0.1 * torch.sin(3 * ratio)


def noise(step: int) -> Tensor:
    return seeded_normal(SHAPE, "noise", step).double()


def ours(sampler, law: Diffusion, ratios: Tensor, start: Tensor, draw=noise) -> list[Tensor]:
    """The clean estimates of all steps and the result, over noise ratios sigma / alpha (S + 1,)."""
    times = torch.where(ratios > 0, law.time_at(-2 * ratios.clamp(min=1e-30).log()), 0)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = law.alpha(t)[:, None], law.sigma(t)[:, None]
        return clean(x / (alpha.square() + sigma.square()).sqrt(), sigma / alpha.clamp(min=1e-9))

    seen: list[Tensor] = []
    times = times[:, None].expand(-1, len(start))
    out = sampler(denoise, start, times, law, noise=draw, callback=lambda _, x0: seen.append(x0))
    return [*seen, out]


def compare(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other)
    for x, y in zip(one, other, strict=True):
        assert (x - y).abs().max() < 1e-5


def of_alphas(scheduler) -> Tensor:
    """sigma / alpha at the scheduler's timesteps, then 0."""
    bars = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    return torch.cat([((1 - bars) / bars).sqrt(), torch.zeros(1, dtype=torch.float64)])


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim(eta):
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, prediction_type="sample", timestep_spacing="leading")
    scheduler.set_timesteps(STEPS)
    ratios, x = of_alphas(scheduler), noise(-1)
    theirs = []
    for step, t in enumerate(scheduler.timesteps):
        theirs.append(clean(x, ratios[step]))
        x = scheduler.step(theirs[-1], t, x, eta=eta, variance_noise=noise(step) if eta else None).prev_sample
    compare(ours(DDIMSampler(eta=eta), DDPMLaw(), ratios, noise(-1)), [*theirs, x])


def test_ddpm():
    scheduler = DDPMScheduler(**BETAS, clip_sample=False, prediction_type="sample", timestep_spacing="leading")
    scheduler.set_timesteps(STEPS)
    ratios, x = of_alphas(scheduler), noise(-1)
    theirs, drawn = [], []
    for step, t in enumerate(scheduler.timesteps):
        theirs.append(clean(x, ratios[step]))
        generator = torch.Generator().manual_seed(step)
        drawn.append(torch.randn(SHAPE, generator=generator, dtype=torch.float64))
        x = scheduler.step(theirs[-1], t, x, generator=generator.manual_seed(step)).prev_sample
    compare(ours(DDPMSampler(), DDPMLaw(), ratios, noise(-1), draw=lambda step: drawn[step]), [*theirs, x])


def multistep(scheduler, law: Diffusion, ratio, **options) -> tuple[Tensor, list[Tensor]]:
    """Noise ratios and their trajectory; `ratio` of a sigma of theirs."""
    scheduler.set_timesteps(STEPS)
    ratios, x = ratio(scheduler.sigmas.double()), noise(-1)
    theirs = []
    for step, t in enumerate(scheduler.timesteps):
        times = law.time_at(-2 * ratios[step].log())
        size = (law.alpha(times).square() + law.sigma(times).square()).sqrt()
        theirs.append(clean(x / size, ratios[step]))
        extra = {key: make(step) for key, make in options.items()}
        x = scheduler.step(theirs[-1], t, x, **extra).prev_sample
    return ratios, [*theirs, x]


@pytest.mark.parametrize(
    ("kind", "sampler"), [("dpmsolver++", DPMpp2MSampler()), ("sde-dpmsolver++", DPMpp2MSDESampler())]
)
def test_dpmpp_2m(kind, sampler):
    scheduler = DPMSolverMultistepScheduler(
        **BETAS, algorithm_type=kind, prediction_type="sample", timestep_spacing="leading", euler_at_final=True
    )
    options = {"variance_noise": noise} if kind.startswith("sde") else {}
    ratios, theirs = multistep(scheduler, DDPMLaw(), lambda sigma: sigma, **options)
    compare(ours(sampler, DDPMLaw(), ratios, noise(-1)), theirs)


def test_unipc():
    scheduler = UniPCMultistepScheduler(**BETAS, prediction_type="sample", timestep_spacing="leading")
    ratios, theirs = multistep(scheduler, DDPMLaw(), lambda sigma: sigma)
    compare(ours(UniPCSampler(), DDPMLaw(), ratios, noise(-1)), theirs)


def test_flow_euler():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(STEPS)
    sigmas, x = scheduler.sigmas.double(), noise(-1)
    theirs = []
    for t, sigma in zip(scheduler.timesteps, sigmas, strict=False):
        size = ((1 - sigma).square() + sigma.square()).sqrt()
        theirs.append(clean(x / size, sigma / (1 - sigma).clamp(min=1e-9)))
        x = scheduler.step((x - theirs[-1]) / sigma, t, x).prev_sample
    ratios = sigmas / (1 - sigmas)  # infinite at first
    compare(ours(EulerSampler(), FlowLaw(), ratios, noise(-1)), [*theirs, x])


def test_edm_euler():
    scheduler = EDMEulerScheduler(sigma_data=1.0, sigma_max=80.0, sigma_min=0.002, rho=7.0)
    scheduler.set_timesteps(STEPS)
    sigmas, x = scheduler.sigmas.double(), 80 * noise(-1)
    theirs = []
    for t, sigma in zip(scheduler.timesteps, sigmas, strict=False):
        theirs.append(clean(x / (1 + sigma.square()).sqrt(), sigma))
        raw = (theirs[-1] - x / (1 + sigma.square())) / (sigma / (1 + sigma.square()).sqrt())
        x = scheduler.step(raw, t, x).prev_sample
    compare(ours(EulerSampler(), EDMLaw(), sigmas, 80 * noise(-1)), [*theirs, x])


def test_edm_heun():
    scheduler = HeunDiscreteScheduler(**BETAS, use_karras_sigmas=True)
    scheduler.set_timesteps(STEPS)
    # Each level but the first and the last stands twice: once where a step ends, once where the next begins.
    every = scheduler.sigmas.double()
    sigmas = torch.cat([every[:1], every[1:-1:2], every[-1:]])
    start = every[0] * noise(-1)
    x, seen = start, []
    for t, sigma in zip(scheduler.timesteps, every, strict=False):
        seen.append(clean(x / (1 + sigma.square()).sqrt(), sigma))
        x = scheduler.step((x - seen[-1]) / sigma, t, x).prev_sample
    assert len(sigmas) == STEPS + 1
    compare(ours(EDMSampler(), EDMLaw(sigma_max=200.0), sigmas, start), [*seen[::2], x])
