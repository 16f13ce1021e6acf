"""Contracts of components with weights: the smallest complete one passes, one with a fault does not."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d, normalize, pad

from kinema_core import DiT, FeatureExtractor, ImageText, TextEncoder, TextFeatures, VideoVAE
from kinema_core import testing as contracts


class BlockVAE(VideoVAE):
    """A cell is its block of pixels; the first frame is repeated to fill the blocks of the first cells."""

    stride = (2, 2, 3)
    streams = True

    def __init__(self):
        super().__init__()
        st, sh, sw = self.stride
        self.latent_channels = 3 * st * sh * sw
        self.last = nn.Parameter(torch.eye(self.latent_channels))
        self.register_buffer("mean", torch.zeros(self.latent_channels, 1, 1, 1))
        self.register_buffer("std", torch.ones(self.latent_channels, 1, 1, 1))

    def blocks(self, video: Tensor, is_start: bool) -> Tensor:
        st, sh, sw = self.stride
        lead = st - 1 if is_start else 0
        video = pad(video, (0, -video.shape[4] % sw, 0, -video.shape[3] % sh, lead, 0), mode="replicate")
        b, c, frames, rows, columns = video.shape
        cells = video.reshape(b, c, frames // st, st, rows // sh, sh, columns // sw, sw)
        return cells.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)

    def pixels(self, z: Tensor, is_start: bool, size: tuple[int, int] | None) -> Tensor:
        st, sh, sw = self.stride
        z = torch.einsum("bcthw,dc->bdthw", z * self.std + self.mean, self.last)
        b, _, t, h, w = z.shape
        video = z.reshape(b, 3, st, sh, sw, t, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
        video = video.reshape(b, 3, t * st, h * sh, w * sw)[:, :, st - 1 if is_start else 0 :]
        return video if size is None else video[..., : size[0], : size[1]]

    def posterior(self, video):
        self.latent_grid(*video.shape[2:])
        mean = self.blocks(video, is_start=True)
        return mean, torch.zeros_like(mean)

    def encode(self, video):
        return (self.posterior(video)[0] - self.mean) / self.std

    def decode(self, z, size=None):
        return self.pixels(z, is_start=True, size=size)

    def set_whitening(self, mean, std):
        self.mean.copy_(mean.view(-1, 1, 1, 1))
        self.std.copy_(std.view(-1, 1, 1, 1))

    @property
    def last_layer(self):
        return self.last

    def encode_stream(self, chunks):
        for index, chunk in enumerate(chunks):
            yield (self.blocks(chunk, is_start=index == 0) - self.mean) / self.std

    def decode_stream(self, latents, size=None):
        for index, z in enumerate(latents):
            yield self.pixels(z, is_start=index == 0, size=size)


class TestVAE(contracts.VAEContract):
    def make(self):
        return BlockVAE()


class Unwhitened(BlockVAE):
    def encode(self, video):
        return self.posterior(video)[0]


class NotUndone(BlockVAE):
    def decode(self, z, size=None):
        return self.pixels((z - self.mean) / self.std, is_start=True, size=size)


class Forgetful(BlockVAE):
    def __init__(self):
        super().__init__()
        self._non_persistent_buffers_set |= {"mean", "std"}


class AnyLength(BlockVAE):
    def latent_grid(self, num_frames, height, width):
        return super().latent_grid(num_frames - (num_frames - 1) % 2, height, width)

    def blocks(self, video, is_start):
        return super().blocks(video[:, :, : video.shape[2] - (video.shape[2] - 1) % 2], is_start)


class Restarting(BlockVAE):
    def decode_stream(self, latents, size=None):
        return (self.pixels(z, is_start=True, size=size) for z in latents)


class Uncropped(BlockVAE):
    def decode(self, z, size=None):
        return self.pixels(z, is_start=True, size=None)


class Detached(BlockVAE):
    def pixels(self, z, is_start, size):
        return super().pixels(z, is_start, size).detach().requires_grad_()


class CharacterEncoder(TextEncoder):
    """An embedding a character after a start token; pooled is their mean."""

    width, pooled_width, trainable = 8, 8, True

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(129, self.width)

    def pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def forward(self, captions):
        rows = [torch.tensor([128, *map(ord, caption)]) for caption in captions]
        length = max(map(len, rows))
        tokens = self.table(torch.stack([pad(row, (0, length - len(row))) for row in rows]))
        mask = torch.arange(length)[None] < torch.tensor([len(row) for row in rows])[:, None]
        return TextFeatures(tokens, mask, self.pool(tokens, mask))


class TestTextEncoder(contracts.TextEncoderContract):
    def make(self):
        return CharacterEncoder()


class PoolsPadding(CharacterEncoder):
    def pool(self, tokens, mask):
        return tokens.mean(1)


class EmptyIsEmpty(CharacterEncoder):
    def forward(self, captions):
        features = super().forward(captions)
        mask = features.mask & torch.tensor([bool(caption) for caption in captions])[:, None]
        return TextFeatures(features.tokens, mask, features.pooled)


class Deaf(CharacterEncoder):
    def forward(self, captions):
        return super().forward(["x" * 7 for _ in captions])


class Pooler(ImageText):
    """Coarse pixels and mean characters, each through a linear map."""

    id, width = "pooler-0", 16

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.text, self.image, self.words = CharacterEncoder(), nn.Linear(48, 16), nn.Linear(8, 16)

    def encode_image(self, images):
        return normalize(self.image(adaptive_avg_pool2d(images, 4).flatten(1)), dim=1)

    def encode_text(self, captions):
        return normalize(self.words(self.text(captions).pooled), dim=1)


class TestImageText(contracts.ImageTextContract):
    def make(self):
        return Pooler()


class Long(Pooler):
    def encode_text(self, captions):
        return 3 * super().encode_text(captions)


class MeanDiT(DiT):
    """A cell sees itself, its clip's mean, its noise, place and text."""

    patch = (1, 1, 1)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(4 + 4 + 1 + 4 + 8 + 6, 32), nn.Linear(32, 4)

    def clip_mean(self, x):
        return torch.stack([part.mean(0) for part in x.values.split(x.lengths)])

    def place(self, x):
        periods = x.per_cell(torch.tensor([64.0 if p is None else p for p in x.period]))
        turn = 2 * torch.pi * x.positions[:, 0] / periods
        return torch.stack([turn.cos(), turn.sin(), x.positions[:, 1], x.positions[:, 2]], 1)

    def words(self, features):
        return (features.tokens * features.mask[..., None]).sum(1) / features.mask.sum(1, keepdim=True)

    def forward(self, x, noise, cond):
        (text,) = cond.text
        per_clip = torch.cat([self.clip_mean(x), self.words(text), text.pooled], 1)
        seen = torch.cat([x.values, noise[:, None], self.place(x), x.per_cell(per_clip)], 1)
        return self.outer(self.inner(seen).sin())


class TestDiT(contracts.DiTContract):
    def make(self):
        return MeanDiT()


class Mixing(MeanDiT):
    def clip_mean(self, x):
        return x.values.mean(0).expand(len(x), -1)


class Linear(MeanDiT):
    def place(self, x):
        return torch.cat([x.positions, x.positions[:, :1] ** 2], 1)


class Placeless(MeanDiT):
    def place(self, x):
        return torch.zeros(len(x.values), 4)


class Unmasked(MeanDiT):
    def words(self, features):
        return features.tokens.mean(1)


class Wordless(MeanDiT):
    def forward(self, x, noise, cond):
        (text,) = cond.text
        silent = TextFeatures(0 * text.tokens, text.mask, 0 * text.pooled)
        return super().forward(x, noise, type(cond)((silent,)))


class Coarse(FeatureExtractor):
    """Coarse pixels."""

    num_features, protocol = 24, {"size": 2}

    def forward(self, video):
        return adaptive_avg_pool3d(video, 2).flatten(1)


class TestFeatures(contracts.FeaturesContract):
    def make(self):
        return Coarse()


class Centred(Coarse):
    def forward(self, video):
        features = super().forward(video)
        return features - features.mean(0)


@pytest.mark.parametrize(
    ("contract", "component", "test"),
    [
        (contracts.VAEContract, Unwhitened, "test_whitening_shifts_and_scales_and_is_undone_and_saved"),
        (contracts.VAEContract, NotUndone, "test_whitening_shifts_and_scales_and_is_undone_and_saved"),
        (contracts.VAEContract, AnyLength, "test_illegal_frame_count_names_the_nearest"),
        (contracts.VAEContract, Restarting, "test_stream_equals_whole"),
        (contracts.VAEContract, Uncropped, "test_shapes_and_sizes_that_are_no_multiple"),
        (contracts.VAEContract, Detached, "test_last_layer_reaches_every_frame"),
        (contracts.TextEncoderContract, PoolsPadding, "test_alone_equals_in_a_batch"),
        (contracts.TextEncoderContract, EmptyIsEmpty, "test_shapes_and_masks"),
        (contracts.TextEncoderContract, Deaf, "test_captions_differ"),
        (contracts.ImageTextContract, Long, "test_embeddings"),
        (contracts.DiTContract, Mixing, "test_packed_equals_alone_forward_and_gradients"),
        (contracts.DiTContract, Linear, "test_time_is_cyclic_where_it_has_a_period"),
        (contracts.DiTContract, Placeless, "test_every_input_matters"),
        (contracts.DiTContract, Wordless, "test_every_input_matters"),
        (contracts.DiTContract, Unmasked, "test_masked_text_is_ignored"),
        (contracts.FeaturesContract, Centred, "test_features"),
    ],
)
def test_a_fault_is_found(contract, component, test):
    suite = type("Suite", (contract,), {"make": lambda self: component()})()
    with pytest.raises(AssertionError):
        getattr(suite, test)()


def test_whitening_that_is_not_saved_is_found():
    suite = type("Suite", (contracts.VAEContract,), {"make": lambda self: Forgetful()})()
    with pytest.raises((AssertionError, RuntimeError)):
        suite.test_whitening_shifts_and_scales_and_is_undone_and_saved()


@pytest.mark.parametrize(("frames", "nearest"), [(2, (1, 3)), (6, (5, 7)), (10, (9, 11))])
def test_an_illegal_frame_count_names_the_two_nearest(frames, nearest):
    with pytest.raises(ValueError, match=f"use {nearest[0]} or {nearest[1]}"):
        BlockVAE().latent_grid(frames, 4, 4)


def test_latent_grid_rounds_rows_and_columns_up_and_refuses_nothing():
    vae = BlockVAE()
    assert vae.latent_grid(1, 1, 1) == (1, 1, 1)
    assert vae.latent_grid(5, 4, 6) == (3, 2, 2)
    assert vae.latent_grid(5, 5, 7) == (3, 3, 3)
    for size in [(0, 4, 4), (1, 0, 4), (1, 4, -2)]:
        with pytest.raises(ValueError, match="sizes start at 1"):
            vae.latent_grid(*size)


def test_randomise_leaves_no_zero_weight_and_repeats():
    one, two = (nn.Linear(3, 3) for _ in range(2))
    for layer in (one, two):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        contracts.randomise(layer, seed=2)
    assert (one.weight != 0).all() and (one.bias != 0).all() and torch.equal(one.weight, two.weight)
