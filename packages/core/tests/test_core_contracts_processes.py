"""Contracts of laws, samplers, guidances, datasets, metrics and text: a complete one passes, a faulty one does not."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from kinema_core import (
    Captioner,
    Clip,
    ClipDataset,
    ClipInfo,
    Diffusion,
    Guidance,
    Metric,
    Prompter,
    Sampler,
    seeded_normal,
)
from kinema_core import testing as contracts
from kinema_core.testing import LinearLaw


class TestLaw(contracts.DiffusionContract):
    def make(self):
        return LinearLaw()


class Weighing(LinearLaw):
    def loss(self, net, x0, noise, t, cond, free):
        t = torch.where(free, t, 0)
        x_t = x0.replace((1 - t)[:, None] * x0.values + t[:, None] * noise)
        error = (net(x_t, t, cond) - x0.values).square().mean(-1) * free
        return x0.mean_per_clip(error, torch.ones_like(free))


class Noisy(LinearLaw):
    def loss(self, net, x0, noise, t, cond, free):
        x_t = x0.replace((1 - t)[:, None] * x0.values + t[:, None] * noise)
        error = torch.where(free[:, None], net(x_t, t, cond) - x0.values, 0)
        return x0.mean_per_clip(error.square().mean(-1), free)


class Unfinished(LinearLaw):
    def times(self, num_steps, num_tokens):
        return torch.linspace(1, 0.01, num_steps + 1)[:, None].expand(-1, len(num_tokens))


class Inverted(LinearLaw):
    def time_at(self, log_snr):
        return torch.sigmoid(log_snr / 2)


class Percent(LinearLaw):
    def denoise(self, net, x, t, cond):
        return net(x, 100 * t, cond)


class Ungoverned(LinearLaw):
    def sample_times(self, num_tokens, generator=None):
        return torch.rand(len(num_tokens))


@dataclass(frozen=True)
class FirstOrder(Sampler):
    """The step of DESIGN section 1."""

    def step(self, x: Tensor, x0: Tensor, now: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> Tensor:
        ratio = after[1] / now[1]
        return ratio * x + (after[0] - now[0] * ratio) * x0

    def __call__(
        self,
        denoise: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        times: Tensor,
        law: Diffusion,
        *,
        noise: Callable[[int], Tensor],
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        for index, (t, s) in enumerate(itertools.pairwise(times)):
            x0 = denoise(x, t)
            x = self.step(x, x0, *((law.alpha(u)[:, None], law.sigma(u)[:, None]) for u in (t, s)))
            if callback:
                callback(index, x0)
        return x


class TestSampler(contracts.SamplerContract):
    def make(self):
        return FirstOrder()


class Shrinking(FirstOrder):
    def step(self, x, x0, now, after):
        return super().step(x, 0.9 * x0, now, after)


class Averaging(FirstOrder):
    def step(self, x, x0, now, after):
        return super().step(x, x0 + 1e-3 * x.mean(0), now, after)


@dataclass(frozen=True)
class Scale(Guidance):
    """uncond + scale * (cond - uncond)."""

    scale: float = 3.0

    def start(self, x, law):
        def guide(predict, x_t, t):
            cond, uncond = predict(("cond", "uncond"))
            return uncond + self.scale * (cond - uncond)

        return guide


class TestGuidance(contracts.GuidanceContract):
    def make(self):
        return Scale()


class Amplifying(Scale):
    def start(self, x, law):
        return lambda predict, x_t, t: self.scale * predict(("cond",))[0]


@dataclass(frozen=True)
class Remembering(Scale):
    """Adds what it saw in earlier runs."""

    seen: list[Tensor] = field(default_factory=list)

    def start(self, x, law):
        def guide(predict, x_t, t):
            (cond,) = predict(("cond",))
            self.seen.append(cond)
            return cond + sum(self.seen[:-1]) * 0.1

        return guide


class Listed(ClipDataset):
    """Seeded clips of unequal sizes."""

    sizes = ((1, 4, 6), (5, 6, 4), (9, 4, 4))
    ids = ("a", "b", "c")

    def __len__(self):
        return len(self.sizes)

    def info(self, index):
        return ClipInfo(self.ids[index], *self.sizes[index], 8.0, f"clip {index}")

    def __getitem__(self, index):
        video = seeded_normal((3, *self.sizes[index]), index).clamp(-1, 1)
        return Clip(self.ids[index], video, 8.0, {"short": f"clip {index}"})


class TestDataset(contracts.DatasetContract):
    def make(self):
        return Listed()


class Swapped(Listed):
    def info(self, index):
        info = super().info(index)
        return ClipInfo(info.id, info.frames, info.width, info.height, info.frame_rate, info.caption)


class Twins(Listed):
    ids = ("a", "b", "a")


class Bytes(Listed):
    def __getitem__(self, index):
        clip = super().__getitem__(index)
        return Clip(clip.id, clip.video * 127.5 + 127.5, clip.frame_rate, clip.captions)


class Restless(Listed):
    def __getitem__(self, index):
        clip = super().__getitem__(index)
        return Clip(clip.id, torch.rand_like(clip.video), clip.frame_rate, clip.captions)


class Endless(Listed):
    def __getitem__(self, index):
        return super().__getitem__(index % len(self))


class Brightness(Metric):
    """The mean difference of generated and real brightness."""

    def __init__(self):
        self.reset()

    def update(self, generated, real=None):
        self.generated += [clip.video.mean().item() for clip in generated]
        self.real += [clip.video.mean().item() for clip in real or []]

    def compute(self):
        mean = [sum(values) / len(values) for values in (self.generated, self.real)]
        return {"brightness": mean[0] - mean[1]}

    def reset(self):
        self.generated, self.real = [], []


class TestMetric(contracts.MetricContract):
    def make(self):
        return Brightness()


class Unforgetting(Brightness):
    def reset(self):
        if not hasattr(self, "generated"):
            super().reset()
        else:
            self.generated = [value + 1 for value in self.generated]


class LastBatch(Brightness):
    def update(self, generated, real=None):
        self.reset()
        super().update(generated, real)


class Counter(Captioner):
    """Says how long a clip is."""

    def caption(self, clip):
        return f"a clip of {clip.video.shape[1]} frames"


class TestCaptioner(contracts.CaptionerContract):
    def make(self):
        return Counter()


class Mute(Captioner):
    def caption(self, clip):
        return " "


class Suffix(Prompter):
    """Adds a seeded number."""

    def expand(self, prompt, seed):
        return f"{prompt}, take {seed}"


class TestPrompter(contracts.PrompterContract):
    def make(self):
        return Suffix()


class Whim(Prompter):
    takes = itertools.count()

    def expand(self, prompt, seed):
        return f"{prompt}, take {next(self.takes)}"


@pytest.mark.parametrize(
    ("contract", "component", "test"),
    [
        (contracts.DiffusionContract, Weighing, "test_loss_leaves_kept_cells_out"),
        (contracts.DiffusionContract, Noisy, "test_loss_leaves_kept_cells_out"),
        (contracts.DiffusionContract, Unfinished, "test_ends_and_monotone_snr"),
        (contracts.DiffusionContract, Inverted, "test_time_at_inverts_log_snr"),
        (contracts.DiffusionContract, Percent, "test_net_sees_finite_values_and_noise_in_range"),
        (contracts.DiffusionContract, Ungoverned, "test_sample_times_repeat_with_the_generator"),
        (contracts.SamplerContract, Shrinking, "test_recovers_mean_and_deviation"),
        (contracts.SamplerContract, Averaging, "test_elementwise_and_repeatable"),
        (contracts.GuidanceContract, Amplifying, "test_agreeing_branches_are_left_alone"),
        (contracts.GuidanceContract, Remembering, "test_agreeing_branches_are_left_alone"),
        (contracts.DatasetContract, Swapped, "test_info_agrees_with_clips"),
        (contracts.DatasetContract, Twins, "test_info_agrees_with_clips"),
        (contracts.DatasetContract, Bytes, "test_info_agrees_with_clips"),
        (contracts.DatasetContract, Restless, "test_info_agrees_with_clips"),
        (contracts.DatasetContract, Endless, "test_ends_with_index_error"),
        (contracts.MetricContract, Unforgetting, "test_split_order_and_reset"),
        (contracts.MetricContract, LastBatch, "test_split_order_and_reset"),
        (contracts.CaptionerContract, Mute, "test_caption"),
        (contracts.PrompterContract, Whim, "test_expand"),
    ],
)
def test_a_fault_is_found(contract, component, test):
    suite = type("Suite", (contract,), {"make": lambda self: component()})()
    with pytest.raises(AssertionError):
        getattr(suite, test)()


def test_the_gaussian_denoiser_is_the_posterior_mean():
    law, mean, std, t = LinearLaw(), 0.5, 0.7, 0.4
    x0 = mean + std * seeded_normal((200_000,), 0).double()
    x_t = (1 - t) * x0 + t * seeded_normal((200_000,), 1).double()
    # The regression of x0 on x_t, which is the posterior mean for Gaussian data.
    slope = ((x0 - x0.mean()) * (x_t - x_t.mean())).mean() / x_t.var()
    times = torch.tensor([t], dtype=torch.float64)
    for value in (-1.0, 0.3, 2.0):
        got = contracts.gaussian_denoiser(law, mean, std)(torch.tensor([[value]], dtype=torch.float64), times)
        assert got.item() == pytest.approx((x0.mean() + slope * (value - x_t.mean())).item(), abs=0.02)
