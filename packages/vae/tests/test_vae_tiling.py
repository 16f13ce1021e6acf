"""Tiles: equal to the whole frame where the network is convolutional, close to it where it attends; in pieces too."""

import math

import pytest
import torch
from kinema_core import seeded_normal
from kinema_core.testing import VAEContract, largest_difference, randomise

from kinema_vae import Causal3D, TiledVAE
from kinema_vae.tiling import cut, faded

SIZES = [(37, 91), (64, 64), (50, 33), (96, 41), (29, 120)]


def convolutional() -> Causal3D:
    torch.manual_seed(0)
    vae = Causal3D(latent_channels=4, unshuffle=(1, 2, 2), strides=((2, 2, 2), (2, 1, 2)), widths=(8, 12, 16))
    randomise(vae, scale=0.05)
    return vae


class TestExact(VAEContract):
    def make(self) -> TiledVAE:
        return TiledVAE(convolutional(), tile=16)


class TestFaded(VAEContract):
    def make(self) -> TiledVAE:
        torch.manual_seed(0)
        vae = Causal3D(preset="wan21", widths=(4, 8, 8, 8), num_blocks=1, latent_channels=4)
        randomise(vae, scale=0.05)
        return TiledVAE(vae, tile=16, overlap=0.5)


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_tiles_of_convolutions_are_the_whole(size):
    vae = convolutional()
    tiled = TiledVAE(vae, tile=24)
    video = seeded_normal((1, 3, 9, *size), 0).clamp(-1, 1)
    z = vae.encode(video)
    assert largest_difference(tiled.encode(video), z) < 1e-4
    whole = vae.decode(z, size=size)
    assert largest_difference(tiled.decode(z, size=size), whole) < 1e-4
    pieces = torch.cat(list(tiled.decode_stream(z.split(1, 2), size)), 2)
    assert largest_difference(pieces, whole) < 1e-4
    assert len(cut(z.shape[3], 24 // vae.stride[1], 3)) > 1, "several tiles"


def test_a_margin_too_small_would_show():
    vae = convolutional()
    tiled = TiledVAE(vae, tile=24)
    tiled.reach = ((0, 0), (0, 0))
    z = seeded_normal((1, 4, 2, 12, 12), 0)
    with torch.no_grad():
        assert largest_difference(tiled.decode(z), vae.decode(z)) > 1e-3


def test_the_margin_is_no_larger_than_needed():
    """The reach computed from the layers is what gradients say, rounded up to cells."""
    vae = convolutional()
    tiled = TiledVAE(vae, tile=24)
    z = seeded_normal((1, 4, 1, 41, 41), 0).requires_grad_()
    st, sh, sw = vae.stride
    vae.decode(z)[..., 20 * sh, 20 * sw].square().sum().backward()
    seen = z.grad.abs().amax((0, 1, 2))
    rows, columns = (seen.amax(1 - axis).nonzero().flatten() for axis in (0, 1))
    found = (int((rows - 20).abs().max()), int((columns - 20).abs().max()))
    assert all(have - 1 <= need <= have for need, have in zip(found, tiled.reach[1], strict=True))


def attentive() -> Causal3D:
    torch.manual_seed(0)
    return Causal3D(preset="wan21", widths=(8, 16, 32, 32), num_blocks=1, latent_channels=8)


def steps_at(video: torch.Tensor, places: list[int], axis: int) -> float:
    """The mean step between neighbouring pixels at these places."""
    steps = video.diff(dim=axis).abs()
    return steps.index_select(axis, torch.tensor([p - 1 for p in places])).mean().item()


@pytest.mark.parametrize("size", [(137, 291), (264, 101), (219, 173), (165, 250), (163, 225)])
@torch.no_grad()
def test_faded_tiles_are_close_to_the_whole_and_show_no_seams(size):
    vae = attentive()
    tiled = TiledVAE(vae, tile=128)
    video = torch.nn.functional.avg_pool3d(seeded_normal((1, 3, 1, *size), 0), (1, 5, 5), 1, (0, 2, 2)).clamp(-1, 1)
    z = vae.encode(video)
    whole, decoded = vae.decode(z, size), tiled.decode(z, size)
    assert not decoded.equal(whole), "several tiles"
    for found, right in ((decoded, whole), (tiled.encode(video), z)):
        error = (found - right).square().mean().sqrt().item()
        assert 20 * math.log10((right.max() - right.min()).item() / error) >= 45
    for axis in (3, 4):
        borders = list(range(128, whole.shape[axis] - 16, 128))
        assert not borders or steps_at(decoded, borders, axis) <= 1.05 * steps_at(whole, borders, axis)


@pytest.mark.parametrize("cells", [1, 5, 8, 9, 17, 40])
def test_weights_of_faded_tiles_add_up_to_one(cells):
    total = torch.zeros(cells * 3)
    for span in faded(cells, 6, 3, 2):
        assert 0 <= span.start <= span.low < span.high <= span.stop <= cells
        total[span.low * 3 : span.high * 3] += span.weight(3)
    assert torch.allclose(total, torch.ones_like(total))


def test_refused():
    with pytest.raises(ValueError, match="a tile has at least the 8 pixels"):
        TiledVAE(convolutional(), tile=4)
    with pytest.raises(ValueError, match="overlap 0"):
        TiledVAE(convolutional(), overlap=0)
