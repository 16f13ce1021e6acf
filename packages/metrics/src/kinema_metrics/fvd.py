"""Frechet video distance on any features: the plug-in `fvd`."""

from typing import Any

import torch
from kinema_core import Clip, FeatureExtractor
from torch import Tensor

from kinema_metrics.frechet import check_counts, frechet_distance, frechet_from_features, kernel_distance, moments
from kinema_metrics.passes import video_features
from kinema_metrics.state import ScoringMetric


class FVD(ScoringMetric):
    """The Frechet distance between features of generated and of real clips (Unterthiner et al. 2018).

    A figure means something only beside one made with the same features and the same number of clips; `protocol` says
    what has to agree. The features' network is held outside the module tree: it is no part of `state_dict`, and
    `.to` does not move it.

    Args:
        features: gives the vectors; the value is named after its protocol's "name" (fvd_clip), or its class.
        ddof: 1 for unbiased covariances (the original), 0 as in StyleGAN-V.
        keep_features: keep all vectors in place of running sums. Then fewer clips than dimensions give an exact value,
            and `compute` adds the kernel distance (kvd_clip), the unbiased one for few clips.
        batch_size: clips of equal size that pass the network at once.
    """

    def __init__(
        self, features: FeatureExtractor, *, ddof: int = 1, keep_features: bool = False, batch_size: int = 16
    ) -> None:
        super().__init__()
        if ddof not in (0, 1):
            raise ValueError(f"ddof is {ddof}; use 1 (unbiased) or 0")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it starts at 1")
        self.ddof = ddof
        self.keep_features = keep_features
        self.batch_size = batch_size
        self._held = (features,)  # a tuple hides the network from the module tree
        self.label = str(features.protocol.get("name", type(features).__name__.lower()))
        width = features.num_features
        for side in ("generated", "real"):
            if keep_features:
                self.add_rows(side, width)
            else:
                self.add_count(f"{side}_count")
                self.add_sum(f"{side}_total", width)
                self.add_sum(f"{side}_outer", width, width)
        self._computed_from: dict[str, Any] = {}

    @property
    def features(self) -> FeatureExtractor:
        """The network behind the figure."""
        return self._held[0]

    def update(self, generated: list[Clip], real: list[Clip] | None = None) -> None:
        """Add clips of any sizes; either side may be empty, and the sides need not be of one length.

        Raises:
            ValueError: features that are not finite; nothing has been added then.
        """
        new = [video_features(self.features, clips, batch_size=self.batch_size) for clips in (generated, real or [])]
        for side, rows in zip(("generated", "real"), new, strict=True):
            self._add(side, rows.to(self.device).double())

    def _add(self, side: str, rows: Tensor) -> None:
        if self.keep_features:
            getattr(self, side).append(rows)
            return
        for name, value in (("count", len(rows)), ("total", rows.sum(0)), ("outer", rows.T @ rows)):
            getattr(self, f"{side}_{name}").add_(value)

    def compute(self) -> dict[str, float]:
        """{"fvd_<features>": distance}, with kept features {"kvd_<features>": kernel distance} too.

        Raises:
            ValueError: fewer than 2 clips on a side.

        Warns:
            UserWarning: no more clips than dimensions.
        """
        values = self._from_features() if self.keep_features else self._from_sums()
        # Rounding can leave equal sets at -1e-9; the protocol keeps the raw value.
        self._computed_from["raw"] = values["fvd"]
        values["fvd"] = max(values["fvd"], 0.0)
        return {f"{name}_{self.label}": value for name, value in values.items()}

    def _from_features(self) -> dict[str, float]:
        generated, real = self.rows("generated"), self.rows("real")
        self._computed_from = {"num_generated": len(generated), "num_real": len(real)}
        return {
            "fvd": frechet_from_features(generated, real, ddof=self.ddof),
            "kvd": kernel_distance(generated, real),
        }

    def _from_sums(self) -> dict[str, float]:
        counts = {side: int(getattr(self, f"{side}_count")) for side in ("generated", "real")}
        self._computed_from = {f"num_{side}": count for side, count in counts.items()}
        check_counts(counts["generated"], counts["real"], self.features.num_features, ddof=self.ddof)
        both: list[Tensor] = []
        for side, count in counts.items():
            total, outer = getattr(self, f"{side}_total"), getattr(self, f"{side}_outer")
            assert total.dtype == outer.dtype == torch.float64, "the running sums were cast: their digits are lost"
            both += moments(count, total, outer, ddof=self.ddof)
        return {"fvd": frechet_distance(*both)}

    @property
    def protocol(self) -> dict[str, Any]:
        """What fixes the figure, to be stored beside it (JSON-able); after `compute` with the clips it is made of."""
        return {
            "metric": "frechet",
            "features": dict(self.features.protocol),
            "num_features": self.features.num_features,
            "ddof": self.ddof,
            "dtype": "float64",
            "values": "8 bit",
            **self._computed_from,
        }

    def reset(self) -> None:
        """Forget all clips."""
        super().reset()
        self._computed_from = {}
