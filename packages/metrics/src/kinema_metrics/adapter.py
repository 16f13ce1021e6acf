"""Metrics of torchmetrics on generated clips paired with real ones: the plug-in `torchmetrics`."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, Literal

import torchmetrics
from einops import rearrange
from kinema_core import Clip, Metric
from torch import Tensor
from torchmetrics.wrappers.abstract import WrapperMetric

from kinema_metrics.passes import eight_bit


class TorchMetrics(WrapperMetric, Metric):
    """Any metric of torchmetrics that compares images or videos in pairs: PSNR, SSIM, LPIPS, VMAF, ...

    generated[i] is compared with real[i], at equal sizes.

    Args:
        metric: a class of `torchmetrics.image` or `torchmetrics.video`, such as "PeakSignalNoiseRatio", or the dotted
            path of one elsewhere.
        kwargs: its constructor's arguments, such as {"data_range": 1.0}.
        layout: what it takes: "frames" (B, 3, H, W), or "video" (B, 3, T, H, W).
        value_range: the values it takes, [0, 1] for most.
    """

    def __init__(
        self,
        metric: str,
        *,
        kwargs: Mapping[str, Any] | None = None,
        layout: Literal["frames", "video"] = "frames",
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        if layout not in ("frames", "video"):
            raise ValueError(f"layout is {layout!r}; use 'frames' or 'video'")
        self.metric = _find(metric)(**(kwargs or {}))
        takes = list(inspect.signature(self.metric.update).parameters)
        if takes[:2] != ["preds", "target"]:
            raise ValueError(
                f"{metric} is updated with ({', '.join(takes)}); only (preds, target) is a metric of pairs"
            )
        self.label = metric.rpartition(".")[2]
        self.layout = layout
        self.low, self.high = value_range

    def update(self, generated: list[Clip], real: list[Clip] | None = None) -> None:
        """Add pairs.

        Raises:
            ValueError: no real clip for each generated one, or a pair of different sizes.
        """
        if real is None or len(real) != len(generated):
            count = "none" if real is None else str(len(real))
            raise ValueError(f"{self.label} compares pairs: {len(generated)} generated clips came with {count} real")
        for one, other in zip(generated, real, strict=True):
            if one.video.shape != other.video.shape:
                sizes = f"{tuple(one.video.shape)} and {tuple(other.video.shape)}"
                raise ValueError(f"clips {one.id!r} and {other.id!r} have different sizes: {sizes}")
        for one, other in zip(generated, real, strict=True):
            self.metric.update(self._shaped(one), self._shaped(other))

    def _shaped(self, clip: Clip) -> Tensor:
        video = eight_bit(clip.video.to(self.metric.device).float())[None]
        video = self.low + (video + 1) / 2 * (self.high - self.low)
        return rearrange(video, "b c t h w -> (b t) c h w") if self.layout == "frames" else video

    def compute(self) -> dict[str, float]:
        """{class: value}, or {class_key: value} for a metric that gives several."""
        value = self.metric.compute()
        if isinstance(value, Mapping):
            return {f"{self.label}_{key}": float(each) for key, each in value.items()}
        return {self.label: float(value)}

    def reset(self) -> None:
        """Forget all clips."""
        self.metric.reset()


def _find(path: str) -> type[torchmetrics.Metric]:
    module, _, name = path.rpartition(".")
    for place in [module] if module else ["torchmetrics.image", "torchmetrics.video"]:
        found = getattr(importlib.import_module(place), name, None)
        if isinstance(found, type) and issubclass(found, torchmetrics.Metric):
            return found
    raise ValueError(f"{path!r} is no metric of {module or 'torchmetrics.image or torchmetrics.video'}")
