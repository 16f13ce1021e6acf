"""CLIP scores of single clips: the plug-ins `clip_score` and `clip_frame_consistency`.

A cosine depends on the model that gives it, so every name ends in the model's id.
"""

import math
import re
from typing import Any

from kinema_core import Clip, ImageText, weights_hash
from torch import Tensor

from kinema_metrics.clip_features import caption_of, embed_captions, embed_clips
from kinema_metrics.pixels import frame_difference
from kinema_metrics.state import ScoringMetric


class ImageTextMetric(ScoringMetric):
    """The base of metrics on an `ImageText`, which is held outside the module tree: `.to` does not move it.

    Args:
        image_text: gives the embeddings.
        batch_size: clips of equal size that pass it at once.
    """

    def __init__(self, image_text: ImageText, *, batch_size: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it starts at 1")
        self.batch_size = batch_size
        self._held = (image_text,)  # a tuple hides the network from the module tree

    @property
    def image_text(self) -> ImageText:
        """The network behind the figure."""
        return self._held[0]

    def named(self, score: str) -> str:
        """`score` with the model's id, in characters that every tracker accepts."""
        return f"{score}_{re.sub(r'[^0-9A-Za-z_.-]+', '-', self.image_text.id)}"

    @property
    def protocol(self) -> dict[str, Any]:
        """What fixes the figure, to be stored beside it (JSON-able)."""
        return {"model": self.image_text.id, "weights": weights_hash(self.image_text.state_dict())[:16]}


class ClipScore(ImageTextMetric):
    """CLIPSIM (GODIVA, Wu et al. 2021): the cosine of frame and caption, mean over frames, then over clips.

    The raw cosine in [-1, 1], neither clamped nor times 100. It is linear in the frame embedding, so it is not the
    cosine with the mean embedding of the frames that some papers report. An image is a clip with one frame.

    Args:
        image_text: gives the embeddings.
        num_frames: frames a clip, evenly spaced.
        caption: the kind of caption to score against; None: the clip's first.
        batch_size: clips of equal size that pass the network at once.
    """

    total: Tensor
    count: Tensor

    def __init__(
        self, image_text: ImageText, *, num_frames: int = 8, caption: str | None = None, batch_size: int = 16
    ) -> None:
        super().__init__(image_text, batch_size=batch_size)
        if num_frames < 1:
            raise ValueError(f"num_frames is {num_frames}; it starts at 1")
        self.num_frames = num_frames
        self.caption = caption
        self.add_sum("total")
        self.add_count("count")

    def update(self, generated: list[Clip], real: list[Clip] | None = None) -> None:
        """Add generated clips with their captions; `real` is not looked at. Raises ValueError without a caption."""
        if not generated:
            return
        captions = embed_captions(self.image_text, [caption_of(clip, self.caption) for clip in generated])
        frames = embed_clips(self.image_text, generated, self.num_frames, batch_size=self.batch_size)
        self.total += sum((e @ caption).double().mean().item() for e, caption in zip(frames, captions, strict=True))
        self.count += len(generated)

    def compute(self) -> dict[str, float]:
        """{"clip_score_<model>": mean cosine}; NaN without clips."""
        return {self.named("clip_score"): _ratio(self.total.item(), self.count.item())}

    @property
    def protocol(self) -> dict[str, Any]:
        """What fixes the figure, to be stored beside it (JSON-able)."""
        return {**super().protocol, "frames": self.num_frames, "caption": self.caption or "first"}


class ClipFrameConsistency(ImageTextMetric):
    """The cosine of neighbouring frames' embeddings, mean over pairs, then over clips; all frames are looked at.

    A frozen video scores 1, so the mean difference of neighbouring frames stands beside it: read the two together, and
    beside those of real clips of the same frame rate. Images have no neighbours and are left out.

    Args:
        image_text: gives the embeddings.
        batch_size: clips of equal size that pass the network at once.
    """

    cosine: Tensor
    difference: Tensor
    count: Tensor

    def __init__(self, image_text: ImageText, *, batch_size: int = 4) -> None:
        super().__init__(image_text, batch_size=batch_size)
        self.add_sum("cosine")
        self.add_sum("difference")
        self.add_count("count")

    def update(self, generated: list[Clip], real: list[Clip] | None = None) -> None:
        """Add generated clips; `real` is not looked at."""
        videos = [clip for clip in generated if clip.video.shape[1] > 1]
        for clip, e in zip(videos, embed_clips(self.image_text, videos, batch_size=self.batch_size), strict=True):
            self.cosine += (e[1:] * e[:-1]).sum(-1).double().mean().item()
            self.difference += frame_difference(clip.video[None]).item()
        self.count += len(videos)

    def compute(self) -> dict[str, float]:
        """{"clip_frame_consistency_<model>": mean cosine, "frame_difference": mean |difference| in parts of the
        value range}; NaN without a clip of 2 frames or more.
        """
        count = self.count.item()
        return {
            self.named("clip_frame_consistency"): _ratio(self.cosine.item(), count),
            "frame_difference": _ratio(self.difference.item(), count),
        }


def _ratio(total: float, count: float) -> float:
    return total / count if count else math.nan
