"""The losses of training: closed forms, gradients, and clear errors where weights are missing."""

import sys

import pytest
import timm
import torch
from kinema_core import seeded_normal
from safetensors.torch import save_file
from torch.func import functional_call

from kinema_vae.training import PatchDiscriminator, PerceptualLoss, adaptive_weight, hinge, wavelet_l1
from kinema_vae.training.wavelet import _split


class TestWavelet:
    def test_the_transform_keeps_the_energy_and_the_number_of_values(self):
        x = seeded_normal((2, 3, 8, 16, 8), 0)
        bands = _split(x, 2, over_time=True)
        assert sum(band.numel() for band in bands) == x.numel()
        assert torch.allclose(torch.stack([band.square().sum() for band in bands]).sum(), x.square().sum(), rtol=1e-5)

    def test_a_constant_error_by_hand(self):
        # One image, one level: of each block of 4 equal values c the sum is 2c, the three differences 0.
        assert wavelet_l1(torch.full((1, 3, 1, 8, 8), 0.5), levels=1).item() == pytest.approx(2 * 0.5 / 4)

    def test_detail_weighs_more_than_the_same_error_spread_out(self):
        smooth = torch.full((1, 1, 5, 8, 8), 0.25)
        flicker = smooth.clone()
        flicker[:, :, 2::2] *= -1
        assert wavelet_l1(flicker) > 1.5 * wavelet_l1(smooth)
        assert wavelet_l1(torch.zeros(1, 3, 4, 5, 1)) == 0, "odd sizes, a column without partner"


class TestDiscriminator:
    def test_hinge_by_hand(self):
        real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
        assert hinge(real, fake).item() == pytest.approx(0.5 * (0.5 / 2 + 1.0 / 2))

    @pytest.mark.parametrize("shape", [(1, 32, 32), (9, 48, 32)])
    def test_images_and_videos_get_a_score_a_patch_and_frame(self, shape):
        score = PatchDiscriminator(8)(seeded_normal((2, 3, *shape), 0))
        assert score.shape[:3] == (2, 1, shape[0]) and min(score.shape[3:]) >= 2

    def test_a_clip_is_judged_alone(self):
        torch.manual_seed(0)
        net, clips = PatchDiscriminator(8), seeded_normal((2, 3, 5, 32, 32), 0)
        assert torch.allclose(net(clips)[:1], net(clips[:1]), atol=1e-5)

    def test_it_learns_to_tell_noise_from_its_blur(self):
        torch.manual_seed(0)
        net = PatchDiscriminator(8, num_layers=2)
        optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
        for step in range(40):
            real = seeded_normal((4, 3, 1, 32, 32), step)
            fake = torch.nn.functional.avg_pool3d(real, (1, 3, 3), 1, (0, 1, 1)) * 3
            loss = hinge(net(real), net(fake))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        assert loss < 0.3

    def test_a_frozen_copy_passes_the_gradient_on_and_takes_none(self):
        net, x = PatchDiscriminator(4), seeded_normal((1, 3, 1, 32, 32), 0).requires_grad_()
        functional_call(net, {k: p.detach() for k, p in net.named_parameters()}, (x,)).mean().backward()
        assert x.grad.abs().sum() > 0 and all(p.grad is None for p in net.parameters())


def test_adaptive_weight_makes_the_pulls_equal():
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    one, other = (weight * torch.tensor([6.0, 8.0])).sum(), (weight * torch.tensor([0.3, 0.4])).sum()
    assert adaptive_weight(one, other, weight).item() == pytest.approx(10 / 0.5, rel=1e-4)
    assert adaptive_weight(one, 0 * other, weight).item() == 1e4


class TestPerceptual:
    @pytest.fixture
    def weights(self, tmp_path):
        torch.manual_seed(0)
        path = tmp_path / "resnet10t.safetensors"
        save_file(timm.create_model("resnet10t", features_only=True).state_dict(), path)
        return str(path)

    def test_equal_is_zero_and_blur_is_not(self, weights):
        loss = PerceptualLoss("resnet10t", weights)
        video = seeded_normal((1, 3, 3, 48, 64), 0).clamp(-1, 1)
        blurred = torch.nn.functional.avg_pool3d(video, (1, 3, 3), 1, (0, 1, 1)).requires_grad_()
        assert loss(video, video) == 0
        value = loss(blurred, video)
        value.backward()
        assert value > 0.01 and blurred.grad.abs().sum() > 0
        assert all(p.grad is None for p in loss.parameters())

    def test_what_is_missing_is_said_in_a_line(self, weights, monkeypatch, tmp_path):
        with pytest.raises(ValueError, match="timm has no model 'resnet10x'"):
            PerceptualLoss("resnet10x", weights)
        with pytest.raises(ValueError, match="no weights of resnet10t at"):
            PerceptualLoss("resnet10t", str(tmp_path / "none.safetensors"))
        save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
        with pytest.raises(ValueError, match="is not of resnet10t"):
            PerceptualLoss("resnet10t", str(tmp_path / "other.safetensors"))
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(ValueError, match=r"pip install 'kinema-vae\[train\]'"):
            PerceptualLoss("resnet10t", weights)
