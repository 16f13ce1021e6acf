"""Causal3D: the contract, causality, an image as a first frame, streaming, and the presets."""

import pytest
import torch
from kinema_core import seeded_normal, vaes
from kinema_core.testing import VAEContract, largest_difference, randomise

from kinema_vae import PRESETS, Causal3D
from kinema_vae.layers import CausalConv3d


def small(**kwargs) -> Causal3D:
    torch.manual_seed(0)
    vae = Causal3D(**kwargs)
    randomise(vae, scale=0.02)
    return vae


SINGLE = {"widths": (8,)}
LEVELS = {
    "latent_channels": 4,
    "unshuffle": (1, 2, 2),
    "strides": ((2, 2, 1), (2, 1, 2)),
    "widths": (8, 12, 16),
}


class TestOneLevel(VAEContract):
    def make(self) -> Causal3D:
        return small(**SINGLE)


class TestLevels(VAEContract):
    def make(self) -> Causal3D:
        return small(**LEVELS)


@pytest.mark.parametrize("kwargs", [SINGLE, LEVELS])
class TestCausality:
    def video(self, num_frames: int = 13) -> torch.Tensor:
        return seeded_normal((2, 3, num_frames, 16, 12), 0).clamp(-1, 1).requires_grad_()

    def test_a_latent_depends_on_exactly_its_own_and_earlier_frames(self, kwargs) -> None:
        vae = small(**kwargs)
        video = self.video()
        z = vae.encode(video)
        for index in range(z.shape[2]):
            (gradient,) = torch.autograd.grad(z[:, :, index].square().sum(), video, retain_graph=True)
            reach = gradient.abs().amax((0, 1, 3, 4))
            last = vae.stride[0] * index
            assert (reach[last + 1 :] == 0).all()
            assert (reach[max(0, last - vae.stride[0] + 1) : last + 1] > 0).all()

    def test_a_frame_depends_on_no_later_latent(self, kwargs) -> None:
        vae = small(**kwargs)
        z = seeded_normal((1, vae.latent_channels, 4, 3, 4), 1).requires_grad_()
        video = vae.decode(z)
        for index in range(video.shape[2]):
            (gradient,) = torch.autograd.grad(video[:, :, index].square().sum(), z, retain_graph=True)
            reach = gradient.abs().amax((0, 1, 3, 4))
            own = -(-index // vae.stride[0])
            assert (reach[own + 1 :] == 0).all() and reach[own] > 0

    def test_an_image_is_the_first_frame_of_a_video(self, kwargs) -> None:
        vae = small(**kwargs)
        video = self.video().detach()
        with torch.no_grad():
            z, image = vae.encode(video), vae.encode(video[:, :, :1])
            assert largest_difference(z[:, :, :1], image) < 1e-5
            assert largest_difference(vae.decode(z)[:, :, :1], vae.decode(image)) < 1e-5

    def test_a_still_video_is_still_in_latents(self, kwargs) -> None:
        vae = small(**kwargs)
        with torch.no_grad():
            z = vae.encode(self.video(1).detach().expand(-1, -1, 13, -1, -1))
        assert largest_difference(z, z[:, :, :1].expand_as(z)) < 1e-5

    def test_gradients_of_the_stream_are_those_of_the_whole(self, kwargs) -> None:
        vae = small(**kwargs)
        whole, pieces = self.video(), self.video()
        vae.encode(whole).square().sum().backward()
        chunks = [pieces[:, :, :5], pieces[:, :, 5:9], pieces[:, :, 9:]]
        torch.cat(list(vae.encode_stream(chunks)), dim=2).square().sum().backward()
        scale = whole.grad.abs().max().item()
        assert largest_difference(whole.grad, pieces.grad) < 1e-5 * scale


class TestStreams:
    def test_two_interleaved_streams_do_not_mix(self) -> None:
        vae = small(**SINGLE)
        one, other = (seeded_normal((1, 3, 9, 8, 8), seed) for seed in (0, 1))
        with torch.no_grad():
            streams = [vae.encode_stream([video[:, :, :5], video[:, :, 5:]]) for video in (one, other)]
            pairs = list(zip(*streams, strict=True))
            for video, parts in zip((one, other), zip(*pairs, strict=True), strict=True):
                assert largest_difference(torch.cat(parts, dim=2), vae.encode(video)) < 1e-5

    def test_what_is_remembered_does_not_grow(self) -> None:
        vae = small(**LEVELS)

        def size(past) -> int:
            return past.untyped_storage().nbytes() if isinstance(past, torch.Tensor) else sum(map(size, past))

        with torch.no_grad():
            _, short = vae.encoder(torch.zeros(1, 3, 5, 8, 8), None)
            _, long = vae.encoder(torch.zeros(1, 3, 41, 8, 8), None)
        assert size(short) == size(long) > 0

    @pytest.mark.parametrize(("first", "second"), [(4, 4), (5, 5), (5, 3), (5, 0)])
    def test_a_wrong_piece_is_refused(self, first, second) -> None:
        stream = small(**SINGLE).encode_stream([torch.zeros(1, 3, n, 8, 8) for n in (first, second)])
        with pytest.raises(ValueError, match="temporal stride of 4"):
            list(stream)

    @pytest.mark.parametrize("pixels", [64, 2500])
    def test_pieces_within_a_call_change_nothing(self, pixels, monkeypatch) -> None:
        vae, video = small(**SINGLE), seeded_normal((2, 3, 13, 12, 8), 0).clamp(-1, 1)
        z = vae.encode(video)
        again = vae.decode(z)
        monkeypatch.setattr("kinema_vae.causal3d.PIECE_PIXELS", pixels)
        lengths = []
        encode = vae.encoder.forward
        monkeypatch.setattr(vae.encoder, "forward", lambda x, past: lengths.append(x.shape[2]) or encode(x, past))
        with torch.no_grad():
            assert largest_difference(vae.encode(video), z) < 1e-5
            assert largest_difference(vae.decode(z), again) < 1e-5
        assert lengths == {64: [1, 4, 4, 4], 2500: [9, 4]}[pixels]

    @pytest.mark.parametrize("kwargs", [LEVELS, {"preset": "wan21", "widths": (4, 8, 8, 8), "latent_channels": 4}])
    def test_layers_in_parts_change_nothing(self, kwargs, monkeypatch) -> None:
        vae, video = small(**kwargs), seeded_normal((1, 3, 9, 16, 24), 0).clamp(-1, 1)
        z = vae.encode(video)
        again = vae.decode(z)
        monkeypatch.setattr("kinema_vae.layers.PART", 1)
        lengths, last = [], vae.decoder[-2]
        convolve = last.forward
        monkeypatch.setattr(last, "forward", lambda x, past: lengths.append(x.shape[2]) or convolve(x, past))
        vae.decode(z)
        assert len(lengths) == 1, "at once where gradients are kept"
        with torch.no_grad():
            assert largest_difference(vae.encode(video), z) < 1e-5
            assert largest_difference(vae.decode(z), again) < 1e-5
        assert lengths[1:] == [1] * lengths[0]

    @pytest.mark.parametrize("blank", [False, True])
    @pytest.mark.parametrize("kernel", [(3, 3, 3), (4, 1, 3), (2, 5, 1), (1, 3, 3)])
    @pytest.mark.parametrize("lengths", [(7,), (1, 1, 2, 3), (2, 5)])
    def test_frame_by_frame_is_torchs_convolution(self, lengths, kernel, blank) -> None:
        torch.manual_seed(0)
        conv, video = CausalConv3d(3, 5, kernel, blank=blank), seeded_normal((2, 3, 7, 6, 4), 0)
        whole, _ = conv(video, None)  # gradients are kept: torch's own
        with torch.no_grad():
            past, done = None, []
            for piece in video.split(lengths, dim=2):
                y, past = conv(piece, past)
                done.append(y)
        assert largest_difference(torch.cat(done, dim=2), whole.detach()) < 1e-5

    def test_wrong_channels_are_refused(self) -> None:
        vae = small(**SINGLE)
        with pytest.raises(ValueError, match="a video has 3 channels, red, green and blue, not 4"):
            vae.encode(torch.zeros(1, 4, 1, 8, 8))
        with pytest.raises(ValueError, match="latents have 12 channels, not 3"):
            vae.decode(torch.zeros(1, 3, 1, 2, 2))


class TestSettings:
    def test_the_folded_pixels_alone_are_lossless(self) -> None:
        # Unit convolutions in and out and blocks of zero: what is left is the unshuffle and its inverse.
        vae = Causal3D(latent_channels=24, unshuffle=(2, 2, 2), widths=(24,))
        for parameter in vae.parameters():
            parameter.data.zero_()
        (stem, head), (read, write) = (vae.encoder[1], vae.encoder[-1]), (vae.decoder[0], vae.decoder[-2])
        eye = torch.eye(24)
        stem.weight.data[:, :, 0, 0, 0] = eye
        write.weight.data[:, :, 0, 0, 0] = eye
        head.weight.data[:24, :, -1, 1, 1] = eye
        read.weight.data[:, :, -1, 1, 1] = eye
        # A normalisation is not linear, so it cannot be undone by weights: skip it.
        vae.encoder[-2].forward = vae.decoder[-3].forward = lambda x, past: (x, ())
        video = seeded_normal((1, 3, 5, 6, 6), 0)
        assert largest_difference(vae.decode(vae.encode(video)), video) < 1e-6

    def test_presets(self) -> None:
        demo = vaes.build({"name": "causal3d"})
        assert isinstance(demo, Causal3D) and demo.stride == (4, 4, 4) and demo.latent_channels == 12
        same = Causal3D(**PRESETS["demo"])
        assert [p.shape for p in same.parameters()] == [p.shape for p in demo.parameters()]
        assert 0.3e6 < sum(p.numel() for p in demo.parameters()) < 0.4e6

    @pytest.mark.parametrize(
        ("preset", "stride", "channels", "millions"),
        [
            ("small", (4, 8, 8), 16, None),
            ("high", (8, 32, 32), 128, None),
            # What diffusers counts in its networks of these settings.
            ("wan21", (4, 8, 8), 16, 126.9),
            ("wan22", (4, 16, 16), 48, 704.7),
        ],
    )
    def test_large_presets(self, preset, stride, channels, millions) -> None:
        with torch.device("meta"):
            vae = Causal3D(preset=preset)
            assert vae.stride == stride and vae.latent_channels == channels
            st, sh, sw = stride
            video = torch.zeros(1, 3, 1 + 2 * st, 2 * sh, 3 * sw)
            z = vae.encode(video)
            assert z.shape == (1, channels, 3, 2, 3) and vae.decode(z).shape == video.shape
        if millions is not None:
            assert sum(p.numel() for p in vae.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)

    def test_what_is_given_goes_over_the_preset(self) -> None:
        with torch.device("meta"):
            vae = Causal3D(preset="wan22", widths=(8, 16, 16, 16), num_blocks=1)
        assert vae.settings["decoder_widths"] == (8, 16, 16, 16) and vae.settings["shortcuts"]

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"widths": (8, 16)}, "2 widths need 1 strides"),
            ({"unshuffle": (4, 4)}, "time, rows, columns"),
            ({"unshuffle": (0, 4, 4)}, "at least 1"),
            ({"num_blocks": 0}, "start at 1"),
            ({"preset": "huge"}, "preset 'huge' is unknown; known: demo"),
            ({"layout": "unet"}, "layout 'unet' is unknown"),
            ({"shortcuts": True}, "shortcuts are for the layout wan"),
            ({"layout": "wan", "widths": (8, 16), "strides": ((1, 1, 2),)}, "strides of the layout wan"),
            ({"preset": "wan21", "time_kernel": 2}, "time_kernel is 3 in the layout wan, not 2"),
            ({"time_kernel": 0}, "time_kernel 0, .* start at 1"),
        ],
    )
    def test_bad_settings(self, kwargs, message) -> None:
        with pytest.raises(ValueError, match=message):
            Causal3D(**kwargs)

    def test_bad_whitening(self) -> None:
        vae = small(**SINGLE)
        with pytest.raises(ValueError, match="positive deviation"):
            vae.set_whitening(torch.zeros(12), torch.zeros(12))
        with pytest.raises(ValueError, match="shape"):
            vae.set_whitening(torch.zeros(4), torch.ones(4))
