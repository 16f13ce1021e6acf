"""R-precision: how often a clip finds its own caption among others. The plug-in `clip_retrieval`.

Unlike a mean cosine it does not depend on the model's offset between images and texts. Chance is 1 / candidates.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from kinema_core import Clip, ImageText, seeded_generator
from torch import Tensor

from kinema_metrics.clip_features import caption_of, embed_captions, embed_clips
from kinema_metrics.clip_score import ImageTextMetric


def retrieval_accuracy(
    image_text: ImageText,
    clips: Sequence[Clip],
    captions: Sequence[str],
    *,
    candidates: int = 32,
    seed: int = 0,
    num_frames: int = 8,
    batch_size: int = 16,
) -> float:
    """The share of clips whose own caption has the highest score among `candidates` captions; ties count in part.

    Args:
        image_text: gives the embeddings; the score is the mean cosine over frames.
        clips: of any sizes, one frame or more.
        captions: one a clip. The other candidates are drawn from the distinct captions here.
        candidates: how many captions a clip chooses from, its own included.
        seed: of the draw; with the clip's id it fixes the distractors, whatever the order.
        num_frames: frames a clip, evenly spaced.
        batch_size: clips of equal size that pass the network at once.

    Raises:
        ValueError: fewer distinct captions than candidates.
    """
    frames = embed_clips(image_text, clips, num_frames, batch_size=batch_size)
    videos = torch.stack([e.mean(0) for e in frames])
    keys = torch.tensor([[_key(clip.id), _key(text)] for clip, text in zip(clips, captions, strict=True)])
    return _hits(videos, embed_captions(image_text, captions), keys, candidates, seed).mean().item()


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def _hits(videos: Tensor, texts: Tensor, keys: Tensor, candidates: int, seed: int) -> Tensor:
    """(B,): 1 where the own caption wins, 1 / k where k captions share the first place, else 0.

    Args:
        videos: (B, E).
        texts: (B, E), the captions.
        keys: (B, 2) int64: of the clip's id and of its caption. Only they choose the distractors.
        candidates: including the own caption.
        seed: of the draw.
    """
    first_at = {key: row for row, key in reversed(list(enumerate(keys[:, 1].tolist())))}
    distinct = sorted(first_at)
    if len(distinct) < candidates:
        raise ValueError(
            f"{len(distinct)} distinct captions are too few for {candidates} candidates; "
            f"score more clips or set candidates to {len(distinct)} or less"
        )
    hits: list[float] = []
    for video, text, (clip_key, own) in zip(videos, texts, keys.tolist(), strict=True):
        order = torch.randperm(len(distinct), generator=seeded_generator(seed, clip_key)).tolist()
        others = [distinct[i] for i in order if distinct[i] != own][: candidates - 1]
        score = video @ text
        rivals = texts[[first_at[key] for key in others]] @ video
        # Equal captions embedded in two batches differ by rounding, which is no preference.
        near = 1e-6
        hits.append(0.0 if (rivals > score + near).any() else 1 / (1 + int((rivals >= score - near).sum())))
    return torch.tensor(hits, dtype=torch.float64)


class ClipRetrieval(ImageTextMetric):
    """`retrieval_accuracy` over all clips of all ranks; the captions are the distractors of one another.

    Args:
        image_text: gives the embeddings.
        candidates: how many captions a clip chooses from, its own included.
        seed: of the draw of the others.
        num_frames: frames a clip, evenly spaced.
        caption: the kind of caption; None: the clip's first.
        batch_size: clips of equal size that pass the network at once.
    """

    videos: list[Tensor]
    texts: list[Tensor]
    keys: list[Tensor]

    def __init__(
        self,
        image_text: ImageText,
        *,
        candidates: int = 32,
        seed: int = 0,
        num_frames: int = 8,
        caption: str | None = None,
        batch_size: int = 16,
    ) -> None:
        super().__init__(image_text, batch_size=batch_size)
        if candidates < 2 or num_frames < 1:
            raise ValueError(f"candidates is {candidates} and num_frames {num_frames}; they start at 2 and 1")
        self.candidates = candidates
        self.seed = seed
        self.num_frames = num_frames
        self.caption = caption
        self.add_rows("videos", image_text.width)
        self.add_rows("texts", image_text.width)
        self.add_rows("keys", 2, torch.int64)

    def update(self, generated: list[Clip], real: list[Clip] | None = None) -> None:
        """Add generated clips with their captions; `real` is not looked at. Raises ValueError without a caption."""
        if not generated:
            return
        captions = [caption_of(clip, self.caption) for clip in generated]
        frames = embed_clips(self.image_text, generated, self.num_frames, batch_size=self.batch_size)
        keys = [[_key(clip.id), _key(text)] for clip, text in zip(generated, captions, strict=True)]
        self.videos.append(torch.stack([e.mean(0) for e in frames]).to(self.device).double())
        self.texts.append(embed_captions(self.image_text, captions).to(self.device).double())
        self.keys.append(torch.tensor(keys, device=self.device))

    def compute(self) -> dict[str, float]:
        """{"clip_retrieval_<candidates>_<model>": share of clips that find their caption}; NaN without clips.

        Raises:
            ValueError: fewer distinct captions than candidates.
        """
        name = self.named(f"clip_retrieval_{self.candidates}")
        keys = self.rows("keys")
        if not len(keys):
            return {name: math.nan}
        hits = _hits(self.rows("videos"), self.rows("texts"), keys, self.candidates, self.seed)
        return {name: hits.mean().item()}

    @property
    def protocol(self) -> dict[str, Any]:
        """What fixes the figure, to be stored beside it (JSON-able)."""
        return {
            **super().protocol,
            "frames": self.num_frames,
            "caption": self.caption or "first",
            "candidates": self.candidates,
            "seed": self.seed,
        }
