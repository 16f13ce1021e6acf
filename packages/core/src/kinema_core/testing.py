"""Contract tests: subclass the one of your component's kind, set its factory, and run pytest.

class TestMyVAE(VAEContract):
    def make(self):
        return MyVAE(latent_channels=4)
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from kinema_core.data import Clip, Conditioning, Ragged, TextFeatures
from kinema_core.interfaces import (
    Captioner,
    ClipDataset,
    Diffusion,
    DiT,
    FeatureExtractor,
    Guidance,
    ImageText,
    Metric,
    Net,
    Prompter,
    Sampler,
    TextEncoder,
    VideoVAE,
)
from kinema_core.noise import seeded_normal

TOLERANCE = 1e-5


def randomise(module: torch.nn.Module, seed: int = 0, scale: float = 0.1) -> None:
    """Give every parameter a random value, so that no zero-initialised layer hides a fault."""
    for index, parameter in enumerate(module.parameters()):
        parameter.data = parameter.data + scale * seeded_normal(tuple(parameter.shape), seed, index)


def largest_difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference; the shapes have to agree."""
    assert a.shape == b.shape, f"{tuple(a.shape)} against {tuple(b.shape)}"
    return (a - b).abs().max().item()


class LinearLaw(Diffusion):
    """alpha = 1 - t, sigma = t, with a network that predicts x0: the smallest complete law, for tests."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def time_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)

    def sample_times(self, num_tokens: Tensor, generator: Generator | None = None) -> Tensor:
        return torch.rand(len(num_tokens), generator=generator)

    def times(self, num_steps: int, num_tokens: Tensor) -> Tensor:
        return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)[:, None].expand(-1, len(num_tokens))

    def denoise(self, net: Net, x: Ragged, t: Tensor, cond: Conditioning) -> Tensor:
        return torch.where(t[:, None] > 0, net(x, t, cond), x.values)

    def loss(self, net: Net, x0: Ragged, noise: Tensor, t: Tensor, cond: Conditioning, free: Tensor) -> Tensor:
        t = torch.where(free, t, 0)
        x_t = x0.replace((1 - t)[:, None] * x0.values + t[:, None] * noise)
        # Selected before it is squared: the gradient of an infinite square is no number, even times 0.
        error = torch.where(free[:, None], net(x_t, t, cond) - x0.values, 0)
        return x0.mean_per_clip(error.square().mean(-1), free)


def gaussian_denoiser(law: Diffusion, mean: float, std: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The exact E[x0 | x_t] when every value of the data is N(mean, std^2)."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = law.alpha(t)[:, None], law.sigma(t)[:, None]
        return (mean * sigma**2 + std**2 * alpha * x) / (sigma**2 + std**2 * alpha**2)

    return denoise


class _Contract:
    @abstractmethod
    def make(self) -> Any:
        """A new component, the same weights each time."""


class VAEContract(_Contract):
    """Shapes, legal frame counts, sizes that are no multiple, whitening, causality and streaming of a `VideoVAE`."""

    def video(self, num_frames: int, height: int, width: int) -> Tensor:
        """A smooth random video (1, 3, T, H, W)."""
        coarse = seeded_normal((1, 3, 2, 3, 3), num_frames, height, width)
        video = torch.nn.functional.interpolate(coarse, size=(num_frames, height, width), mode="trilinear")
        return video.clamp(-1, 1)

    def test_shapes_and_sizes_that_are_no_multiple(self) -> None:
        vae: VideoVAE = self.make().eval()
        st, sh, sw = vae.stride
        for size in [(1, 2 * sh, 2 * sw), (1 + st, 2 * sh, 3 * sw), (1 + 2 * st, 2 * sh + 1, 3 * sw - 1)]:
            with torch.no_grad():
                z = vae.encode(self.video(*size))
                assert tuple(z.shape[1:]) == (vae.latent_channels, *vae.latent_grid(*size))
                assert tuple(vae.decode(z, size=size[1:]).shape[2:]) == size

    def test_illegal_frame_count_names_the_nearest(self) -> None:
        vae: VideoVAE = self.make()
        st, sh, sw = vae.stride
        if st == 1:
            return
        try:
            vae.encode(self.video(1 + 2 * st + 1, 2 * sh, 2 * sw))
        except ValueError as error:
            assert str(1 + 2 * st) in str(error) and str(1 + 3 * st) in str(error)
        else:
            raise AssertionError("encode accepted an illegal number of frames")

    def test_whitening_shifts_and_scales_and_is_undone_and_saved(self) -> None:
        vae: VideoVAE = self.make().eval()
        st, sh, sw = vae.stride
        video = self.video(1 + st, 2 * sh, 2 * sw)
        c = vae.latent_channels
        with torch.no_grad():
            raw, _ = vae.posterior(video)
            plain = vae.decode(raw)
            mean, std = torch.linspace(-1, 1, c), torch.linspace(0.5, 2, c)
            vae.set_whitening(mean, std)
            white = vae.encode(video)
            expected = (raw - mean.view(-1, 1, 1, 1)) / std.view(-1, 1, 1, 1)
            assert largest_difference(white, expected) < TOLERANCE
            assert largest_difference(vae.decode(white), plain) < 10 * TOLERANCE
            other: VideoVAE = self.make().eval()
            other.load_state_dict(vae.state_dict())
            assert largest_difference(other.encode(video), white) < TOLERANCE

    def test_stream_equals_whole(self) -> None:
        vae: VideoVAE = self.make().eval()
        if not vae.streams:
            return
        st, sh, sw = vae.stride
        video = self.video(1 + 5 * st, 2 * sh, 2 * sw + 1)
        with torch.no_grad():
            whole = vae.encode(video)
            first, rest = video[:, :, : 1 + st], video[:, :, 1 + st :]
            chunks = [first, rest[:, :, : 3 * st], rest[:, :, 3 * st :]]
            assert largest_difference(torch.cat(list(vae.encode_stream(chunks)), 2), whole) < TOLERANCE
            frames = vae.decode(whole, size=(2 * sh, 2 * sw + 1))
            for sizes in ([1] * 6, [2, 1, 3]):
                parts = list(vae.decode_stream(whole.split(sizes, dim=2), size=(2 * sh, 2 * sw + 1)))
                assert largest_difference(torch.cat(parts, 2), frames) < TOLERANCE

    def test_last_layer_reaches_every_frame(self) -> None:
        vae: VideoVAE = self.make()
        st, sh, sw = vae.stride
        vae.decode(vae.encode(self.video(1 + st, sh, sw))).square().mean().backward()
        assert vae.last_layer.grad is not None and vae.last_layer.grad.abs().sum() > 0


class TextEncoderContract(_Contract):
    """Shapes, masks, the empty caption and batch independence of a `TextEncoder`."""

    captions = ("a red circle", "", "a much longer caption of a large blue square that moves to the left")

    def test_shapes_and_masks(self) -> None:
        encoder: TextEncoder = self.make().eval()
        features = encoder(list(self.captions))
        assert features.tokens.shape[0] == 3 and features.tokens.shape[2] == encoder.width
        assert features.mask.dtype == torch.bool and features.mask.shape == features.tokens.shape[:2]
        assert features.mask.any(1).all()
        pooled_width = None if features.pooled is None else features.pooled.shape[1]
        assert pooled_width == encoder.pooled_width

    def test_alone_equals_in_a_batch(self) -> None:
        encoder: TextEncoder = self.make().eval()
        batch = encoder(list(self.captions))
        for index, caption in enumerate(self.captions):
            alone = encoder([caption])
            assert (
                largest_difference(alone.tokens[0][alone.mask[0]], batch.tokens[index][batch.mask[index]]) < TOLERANCE
            )
            if alone.pooled is not None and batch.pooled is not None:
                assert largest_difference(alone.pooled[0], batch.pooled[index]) < TOLERANCE

    def test_captions_differ(self) -> None:
        encoder: TextEncoder = self.make().eval()
        one, other = encoder(["a red circle"]), encoder(["a blue circle"])
        assert one.tokens.shape != other.tokens.shape or largest_difference(one.tokens, other.tokens) > TOLERANCE


class ImageTextContract(_Contract):
    """Unit length, any image size, batch independence of an `ImageText`."""

    def test_embeddings(self) -> None:
        model: ImageText = self.make().eval()
        with torch.no_grad():
            images = model.encode_image(seeded_normal((2, 3, 40, 56), 0).clamp(-1, 1))
            texts = model.encode_text(["a red circle", ""])
        assert images.shape == texts.shape == (2, model.width)
        for embedding in (images, texts):
            assert (embedding.norm(dim=1) - 1).abs().max() < 1e-4
        assert isinstance(model.id, str) and model.id


class DiTContract(_Contract):
    """A `DiT`: packed equals alone, sizes that are no multiple of the patch, cyclic time, use of every input.

    Set `latent_channels`, `text_widths`, `pooled_widths` to what `make` was built with.
    """

    latent_channels = 4
    text_widths: tuple[int, ...] = (8,)
    pooled_widths: tuple[int | None, ...] = (6,)
    grids = ((3, 4, 4), (1, 3, 5), (2, 4, 6), (3, 4, 4))

    def inputs(self, period: tuple[float | None, ...] = ()) -> tuple[Ragged, Tensor, Conditioning]:
        """Clips of several sizes, a noise level a cell (constant within a patch) and text."""
        clips = [seeded_normal((self.latent_channels, *grid), i) for i, grid in enumerate(self.grids)]
        x = Ragged.from_clips(clips, cell_rates=[6, 6, 3, 2], period=period)
        noise = x.per_cell(torch.tensor([0.9, 0.1, 0.5, 0.3]))
        return x, noise, self.conditioning(len(clips))

    def conditioning(self, num_clips: int, seed: int = 0) -> Conditioning:
        """Random text features, padded unequally."""
        mask = torch.arange(7)[None] < torch.arange(num_clips)[:, None] % 4 + 3
        streams = zip(self.text_widths, self.pooled_widths, strict=True)
        return Conditioning(
            tuple(
                TextFeatures(
                    seeded_normal((num_clips, 7, width), seed, i, "tokens"),
                    mask,
                    None if pooled is None else seeded_normal((num_clips, pooled), seed, i, "pooled"),
                )
                for i, (width, pooled) in enumerate(streams)
            )
        )

    def model(self) -> DiT:
        """The component with all weights random."""
        model: DiT = self.make().eval()
        randomise(model)
        return model

    def test_packed_equals_alone_forward_and_gradients(self) -> None:
        model = self.model()
        x, noise, cond = self.inputs()
        packed = model(x, noise, cond)
        assert packed.shape == x.values.shape
        packed.square().sum().backward()
        gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        parts = zip(x.clips(), packed.split(x.lengths), noise.split(x.lengths), strict=True)
        positions = x.positions.split(x.lengths)
        for i, (clip, expected, level) in enumerate(parts):
            text = tuple(features[i : i + 1] for features in cond.text)
            alone = model(Ragged(clip.flatten(1).T, (x.grids[i],), positions[i]), level, Conditioning(text))
            assert largest_difference(alone, expected) < TOLERANCE
            alone.square().sum().backward()
        for one, parameter in zip(gradients, model.parameters(), strict=True):
            if one is not None and parameter.grad is not None:
                scale = 1 + one.abs().max().item()
                assert largest_difference(one, parameter.grad) < 10 * TOLERANCE * scale

    def test_every_input_matters(self) -> None:
        model = self.model()
        x, noise, cond = self.inputs()
        with torch.no_grad():
            base = model(x, noise, cond)
            for other in (
                model(x, 1 - noise, cond),
                model(x, noise, self.conditioning(len(x), seed=1)),
                model(Ragged(x.values, x.grids, x.positions * torch.tensor([2.0, 1.0, 1.0])), noise, cond),
                model(x.replace(x.values.roll(1, 1)), noise, cond),
            ):
                assert largest_difference(base, other) > 1e-4

    def test_masked_text_is_ignored(self) -> None:
        model = self.model()
        x, noise, cond = self.inputs()
        hidden = tuple(TextFeatures(f.tokens + 9.0 * ~f.mask[..., None], f.mask, f.pooled) for f in cond.text)
        with torch.no_grad():
            assert largest_difference(model(x, noise, cond), model(x, noise, Conditioning(hidden))) < TOLERANCE

    def test_time_is_cyclic_where_it_has_a_period(self) -> None:
        model = self.model()
        x, noise, cond = self.inputs(period=(3.0, None, 4.0, 9.0))
        periods = x.per_cell(torch.tensor([3.0, 0.0, 4.0, 9.0]))
        turned = x.positions + torch.stack([periods, 0 * periods, 0 * periods], 1)
        with torch.no_grad():
            base = model(x, noise, cond)
            other = model(Ragged(x.values, x.grids, turned, x.period), noise, cond)
        assert largest_difference(base, other) < 10 * TOLERANCE


class DiffusionContract(_Contract):
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


class SamplerContract(_Contract):
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


class GuidanceContract(_Contract):
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


class DatasetContract(_Contract):
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


class FeaturesContract(_Contract):
    """A `FeatureExtractor`: shape, batch independence, a protocol that can be stored."""

    size = (16, 64, 64)

    def test_features(self) -> None:
        extractor: FeatureExtractor = self.make().eval()
        video = seeded_normal((2, 3, *self.size), 0).clamp(-1, 1)
        with torch.no_grad():
            both, alone = extractor(video), extractor(video[1:])
        assert both.shape == (2, extractor.num_features)
        assert largest_difference(both[1:], alone) < 1e-4
        assert extractor.protocol and all(isinstance(key, str) for key in extractor.protocol)


class MetricContract(_Contract):
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


class CaptionerContract(_Contract):
    """A `Captioner` gives a non-empty caption, the same each time."""

    def test_caption(self) -> None:
        captioner: Captioner = self.make()
        clip = Clip("a", seeded_normal((3, 5, 32, 32), 0).clamp(-1, 1), 8.0)
        assert captioner.caption(clip).strip() and captioner.caption(clip) == captioner.caption(clip)


class PrompterContract(_Contract):
    """A `Prompter` gives a non-empty prompt, a function of the seed."""

    def test_expand(self) -> None:
        prompter: Prompter = self.make()
        assert prompter.expand("a red circle", 0).strip()
        assert prompter.expand("a red circle", 1) == prompter.expand("a red circle", 1)
