"""Pixel measures and the torchmetrics adapter."""

import math

import pytest
import torch
from kinema_core import Clip, metrics, seeded_normal
from kinema_core.testing import MetricContract

from kinema_metrics import TorchMetrics, frame_difference, psnr, seam_ratio, ssim


def video(*key, size=(3, 5, 16, 20)):
    return (0.4 * seeded_normal(size, *key)).clamp(-1, 1)


class TestTorchMetricsContract(MetricContract):
    def make(self):
        return TorchMetrics("PeakSignalNoiseRatio", kwargs={"data_range": 1.0})


class TestTorchMetricsVideoContract(MetricContract):
    def make(self):
        return TorchMetrics("torchmetrics.MeanSquaredError", layout="video", value_range=(-1, 1))


def test_psnr_closed_form():
    one = torch.zeros(2, 3, 2, 4, 4)
    other = torch.stack([one[0] + 0.2, one[0]])
    assert psnr(one, other).tolist() == [pytest.approx(20, abs=1e-5), math.inf]  # 10 log10(4 / 0.04)
    half = one.clone()
    half[:, :, 0] = 0.2
    assert psnr(half, one)[0].item() == pytest.approx(20 + 10 * math.log10(2), abs=1e-5)


def test_ssim_ends_and_order():
    clean = video("a")[None].repeat(2, 1, 1, 1, 1)
    noise = torch.stack([torch.zeros_like(clean[0]), 0.3 * seeded_normal((3, 5, 16, 20), "n")])
    same, noisy = ssim(clean + noise, clean).tolist()
    assert same == pytest.approx(1) and noisy < 0.9
    assert ssim(clean + noise, clean)[1] == pytest.approx(ssim(clean[1:] + noise[1:], clean[1:])[0].item())
    with pytest.raises(ValueError, match="window of 11"):
        ssim(clean[..., :9], clean[..., :9])
    with pytest.raises(ValueError, match="cannot be compared"):
        ssim(clean, clean[:, :, 1:])


def test_frame_difference():
    clip = torch.zeros(1, 3, 3, 4, 4)
    clip[:, :, 2] = 1.0
    assert frame_difference(clip).item() == 0.25  # half the range in one of two pairs
    assert frame_difference(clip[:, :, :1]).item() == 0


def test_adapter_agrees_with_our_psnr_on_eight_bit_values():
    one, other = (((video(key) + 1) * 127.5).round() / 127.5 - 1 for key in "ab")
    metric = TorchMetrics("PeakSignalNoiseRatio", kwargs={"data_range": 1.0})
    metric.update([Clip("a", one)], [Clip("b", other)])
    assert metric.compute() == {
        "PeakSignalNoiseRatio": pytest.approx(psnr(one[None], other[None]).item(), abs=1e-3),
    }


def test_adapter_by_config_with_clips_of_several_sizes():
    metric = metrics.build(
        {"name": "torchmetrics", "metric": "StructuralSimilarityIndexMeasure", "kwargs": {"data_range": 1.0}}
    )
    sizes = [(3, 2, 16, 24), (3, 1, 20, 12)]
    clips = [Clip(str(size), video("a", size=size)) for size in sizes]
    metric.update(clips, clips)
    assert metric.compute()["StructuralSimilarityIndexMeasure"] == pytest.approx(1)


def test_adapter_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="'Sharpness' is no metric of torchmetrics.image"):
        TorchMetrics("Sharpness")
    with pytest.raises(ValueError, match="only \\(preds, target\\)"):
        TorchMetrics("TotalVariation")
    with pytest.raises(ValueError, match="layout is 'pairs'"):
        TorchMetrics("PeakSignalNoiseRatio", layout="pairs")
    metric = TorchMetrics("PeakSignalNoiseRatio", kwargs={"data_range": 1.0})
    with pytest.raises(ValueError, match="1 generated clips came with none real"):
        metric.update([Clip("a", video("a"))])
    with pytest.raises(ValueError, match="'a' and 'b' have different sizes"):
        metric.update([Clip("a", video("a"))], [Clip("b", video("b", size=(3, 4, 16, 20)))])


def test_seam_ratio_by_hand():
    # A ramp of 1/16 a pixel with a step of 3/16 more at every eighth column: 4 times the step beside it.
    video = (torch.arange(32) / 16 + 3 / 16 * (torch.arange(32) // 8)).expand(1, 3, 2, 32, 32)
    assert seam_ratio(video, (64, 8)).item() == pytest.approx(4)
    assert seam_ratio(video, (64, 5)).item() < 1.6
    assert seam_ratio(torch.zeros(1, 3, 1, 16, 16), (8, 8)).item() == 1
