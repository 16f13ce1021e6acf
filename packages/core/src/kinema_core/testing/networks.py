"""Contracts of the components that have weights: VAE, encoders of text and images, transformer, features."""

import torch
from torch import Tensor

from kinema_core.data import Conditioning, Ragged, TextFeatures
from kinema_core.interfaces import DiT, FeatureExtractor, ImageEncoder, ImageText, TextEncoder, VideoVAE
from kinema_core.noise import seeded_normal
from kinema_core.testing.references import TOLERANCE, Contract, largest_difference, randomise


class VAEContract(Contract):
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
        # In float64: a network of random weights can grow float32's rounding, which differs between processors.
        vae: VideoVAE = self.make().eval().double()
        if not vae.streams:
            return
        st, sh, sw = vae.stride
        video = self.video(1 + 5 * st, 2 * sh, 2 * sw + 1).double()
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


class TextEncoderContract(Contract):
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


class ImageEncoderContract(Contract):
    """Shapes, any image size, batch independence and the use of what is seen, of an `ImageEncoder`."""

    def test_tokens(self) -> None:
        encoder: ImageEncoder = self.make().eval()
        images = seeded_normal((2, 3, 40, 56), 0).clamp(-1, 1)
        with torch.no_grad():
            both, wide = encoder(images), encoder(images[:1, :, :20])
            alone = encoder(images[1:])
        assert both.ndim == 3 and both.shape[::2] == (2, encoder.width) and both.dtype == torch.float32
        assert wide.shape[1:] == both.shape[1:]
        assert largest_difference(alone[0], both[1]) < TOLERANCE
        assert largest_difference(both[0], both[1]) > TOLERANCE


class ImageTextContract(Contract):
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


class DiTContract(Contract):
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


class FeaturesContract(Contract):
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
