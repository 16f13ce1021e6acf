"""Contracts of the components without weights: law, sampler, guidance, dataset, metric, captioner, prompter."""

import torch
from torch import Tensor

from kinema_core.data import Clip, Conditioning, Ragged
from kinema_core.interfaces import Captioner, ClipDataset, Diffusion, Guidance, Metric, Prompter, Sampler
from kinema_core.noise import seeded_normal
from kinema_core.testing.references import TOLERANCE, Contract, LinearLaw, gaussian_denoiser, largest_difference


class DiffusionContract(Contract):
    """End points, inverses, finite inputs, kept cells and exact recovery of Gaussian data for a `Diffusion`."""

    def test_ends_and_monotone_snr(self) -> None:
        law: Diffusion = self.make()
        times = law.times(20, torch.tensor([64, 4096]))
        assert times.shape == (21, 2) and (times[-1] == 0).all()
        assert (times.diff(dim=0) < 0).all()
        zero = torch.zeros(1, dtype=torch.float64)
        assert law.alpha(zero).item() == 1 and law.sigma(zero).item() == 0
        t = times[:-1, 0].double()
        ratio = law.alpha(t) / law.sigma(t)
        assert (ratio.diff() > 0).all()

    def test_time_at_inverts_log_snr(self) -> None:
        law: Diffusion = self.make()
        t = law.times(20, torch.tensor([64]))[1:-1, 0].double()
        log_snr = 2 * (law.alpha(t).log() - law.sigma(t).log())
        back = law.time_at(log_snr)
        again = 2 * (law.alpha(back).log() - law.sigma(back).log())
        assert (again - log_snr).abs().max() < 1e-3

    def test_sample_times_repeat_with_the_generator(self) -> None:
        law: Diffusion = self.make()
        sizes = torch.full((512,), 64)
        one, two = (law.sample_times(sizes, torch.Generator().manual_seed(3)) for _ in range(2))
        assert one.shape == (512,) and torch.equal(one, two) and one.unique().numel() > 50
        assert (one >= 0).all() and torch.isfinite(law.sigma(one)).all()

    def test_net_sees_finite_values_and_noise_in_range(self) -> None:
        law: Diffusion = self.make()
        seen: list[Tensor] = []

        def net(x: Ragged, noise: Tensor, _: Conditioning) -> Tensor:
            seen.extend([x.values, noise])
            assert noise.shape == x.values.shape[:1] and (noise >= 0).all() and (noise <= 1).all()
            return torch.zeros_like(x.values)

        x = Ragged.from_clips([seeded_normal((3, 1, 4, 4), 0)])
        for t in (law.times(10, torch.tensor([16]))[0, 0], torch.zeros(())):
            x0 = law.denoise(net, x, x.per_cell(t.float()[None]), Conditioning())
            assert torch.isfinite(x0).all()
        assert all(torch.isfinite(values).all() for values in seen)
        assert seen[-1].abs().max() == 0, "noise of a clean cell is 0"
        assert largest_difference(x0, x.values) < TOLERANCE, "a clean cell's estimate is the cell"

    def test_loss_leaves_kept_cells_out(self) -> None:
        law: Diffusion = self.make()
        x0 = Ragged.from_clips([seeded_normal((3, 2, 4, 4), 0), seeded_normal((3, 1, 4, 4), 1)])
        noise = seeded_normal((48, 3), 2)
        free = torch.rand(48, generator=torch.Generator().manual_seed(0)) > 0.3
        weight = torch.ones(3, 3, requires_grad=True)

        def net(x: Ragged, level: Tensor, _: Conditioning) -> Tensor:
            assert (level[~free] == 0).all()
            return x.values @ weight * 0.1 + torch.where(free, 0.0, torch.inf)[:, None]

        for t in law.sample_times(torch.full((8,), 32), torch.Generator().manual_seed(1)):
            loss = law.loss(net, x0, noise, x0.per_cell(t.expand(2)), Conditioning(), free)
            assert loss.shape == (2,) and torch.isfinite(loss).all() and (loss > 0).all()
            (gradient,) = torch.autograd.grad(loss.sum(), weight)
            assert torch.isfinite(gradient).all()


class SamplerContract(Contract):
    """A `Sampler`: recovers Gaussian data, elementwise in N, repeatable, ends on the clean estimate."""

    num_steps = 60

    def laws(self) -> list[Diffusion]:
        """The laws to test with."""
        return [LinearLaw()]

    def run(self, sampler: Sampler, law: Diffusion, x: Tensor, mean: float = 0.5, std: float = 0.7) -> Tensor:
        """Sample N(mean, std^2) from x."""
        times = law.times(self.num_steps, torch.tensor([len(x)])).double().expand(-1, len(x))
        keep = seeded_normal((1024, x.shape[1]), 11).double()

        def noise(step: int) -> Tensor:
            return keep.roll(7 * step + 1, 0)[: len(x)] if step >= 0 else keep[: len(x)]

        return sampler(gaussian_denoiser(law, mean, std), x, times, law, noise=noise)

    def start(self, law: Diffusion, num: int) -> Tensor:
        """x at the first time."""
        first = law.times(self.num_steps, torch.tensor([num]))[0, :1].double()
        data = 0.5 + 0.7 * seeded_normal((num, 64), 3).double()
        return law.alpha(first) * data + law.sigma(first) * seeded_normal((num, 64), 4).double()

    def test_recovers_mean_and_deviation(self) -> None:
        for law in self.laws():
            out = self.run(self.make(), law, self.start(law, 512))
            assert abs(out.mean().item() - 0.5) < 0.05 and abs(out.std().item() - 0.7) < 0.05

    def test_elementwise_and_repeatable(self) -> None:
        for law in self.laws():
            x = self.start(law, 8)
            whole = self.run(self.make(), law, x)
            assert torch.equal(whole, self.run(self.make(), law, x))
            assert largest_difference(self.run(self.make(), law, x[:4])[:1], whole[:1]) < 1e-9


class GuidanceContract(Contract):
    """A `Guidance`: agreeing branches stay as they are, and two runs do not share state."""

    def test_agreeing_branches_are_left_alone(self) -> None:
        guidance: Guidance = self.make()
        x = Ragged.from_clips([seeded_normal((3, 1, 4, 4), 0)])
        x0, t = seeded_normal((16, 3), 1), torch.full((16,), 0.5)
        runs: list[Tensor] = []
        for _ in range(2):
            guide = guidance.start(x, LinearLaw())
            runs.append(guide(lambda names: tuple(x0 for _ in names), x.values, t))
        assert largest_difference(runs[0], x0) < TOLERANCE
        assert torch.equal(runs[0], runs[1])


class DatasetContract(Contract):
    """A `ClipDataset`: info agrees with the decoded clip, values in range, ids unique, repeatable."""

    def test_info_agrees_with_clips(self) -> None:
        dataset: ClipDataset = self.make()
        assert len(dataset) > 0
        for index in range(min(len(dataset), 5)):
            info, clip = dataset.info(index), dataset[index]
            assert tuple(clip.video.shape) == (3, info.frames, info.height, info.width)
            assert clip.id == info.id and clip.frame_rate == info.frame_rate
            assert info.caption in clip.captions.values()
            assert clip.video.is_floating_point() and clip.video.abs().max() <= 1
            assert torch.equal(clip.video, dataset[index].video)
        ids = [dataset.info(i).id for i in range(len(dataset))]
        assert len(set(ids)) == len(ids)

    def test_ends_with_index_error(self) -> None:
        dataset: ClipDataset = self.make()
        try:
            dataset[len(dataset)]
        except IndexError:
            return
        raise AssertionError("no IndexError past the end")


class MetricContract(Contract):
    """A `Metric`: the same in any batch split, forgets on reset. Override `clips` for what it needs."""

    def clips(self) -> tuple[list[Clip], list[Clip] | None]:
        """Generated and real clips."""

        def some(kind: str) -> list[Clip]:
            return [
                Clip(f"{kind}{i}", seeded_normal((3, 9, 32, 32), kind, i).clamp(-1, 1), 8.0, {"short": f"clip {i}"})
                for i in range(6)
            ]

        return some("generated"), some("real")

    def test_split_order_and_reset(self) -> None:
        metric: Metric = self.make()
        generated, real = self.clips()
        metric.update(generated, real)
        whole = metric.compute()
        assert whole and all(isinstance(value, float) for value in whole.values())
        metric.reset()
        for part in (slice(2, None), slice(0, 2)):
            metric.update(generated[part], None if real is None else real[part])
        for name, value in metric.compute().items():
            assert abs(value - whole[name]) <= 1e-4 * (1 + abs(whole[name])), name


class CaptionerContract(Contract):
    """A `Captioner` gives a non-empty caption, the same each time."""

    def test_caption(self) -> None:
        captioner: Captioner = self.make()
        clip = Clip("a", seeded_normal((3, 5, 32, 32), 0).clamp(-1, 1), 8.0)
        assert captioner.caption(clip).strip() and captioner.caption(clip) == captioner.caption(clip)


class PrompterContract(Contract):
    """A `Prompter` gives a non-empty prompt, a function of the seed."""

    def test_expand(self) -> None:
        prompter: Prompter = self.make()
        assert prompter.expand("a red circle", 0).strip()
        assert prompter.expand("a red circle", 1) == prompter.expand("a red circle", 1)
