"""Frame embeddings of an `ImageText`, and the video features made of them: the plug-in `clip`.

Letters: B clips, T H W frames, rows, columns in pixels, n sampled frames, E width of an embedding.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from kinema_core import Clip, FeatureExtractor, ImageText, weights_hash
from torch import Tensor

from kinema_metrics.passes import batches, frozen

#: A movement of an embedding, a vector of length 1, that is as good as none.
REST = 0.02


class ClipFeatures(FeatureExtractor):
    """Video features from frame embeddings e_i that know the order of the frames.

    A mean over frames cannot tell a video from its frames shuffled. These features are

        c_0 = mean_i e_i                                          what is seen                          E values
        c_k = mean_i sqrt(2) cos(pi k (i + 1/2) / n) e_i          how it changes from start to end      E each, k > 0
        r_L = sqrt(mean_i |e_(i+L) - e_i|^2)                      how far it moves in L samples         1
        w (r_l / (r_L + 0.02))                                    how steadily: the share done in l < L 1 each

    c_k are the first terms of the embeddings' cosine transform in time: shuffling moves their energy to terms that are
    left out, freezing makes them 0. The shares tell steady motion (1/4 and 1/2 of the way in 1/4 and 1/2 of the time)
    from shuffled frames (all of it at once) whatever the motion's length, which varies among videos far more than
    order does: as plain distances, the r_l would mostly compare lengths. An image is a video that does not move; 0.02
    on embeddings of length 1 is as good as rest, and makes a frozen video's shares 0.

    Args:
        image_text: gives the embeddings; it resizes frames of any size itself.
        num_frames: n, taken evenly from the first to the last; frames repeat where a clip has fewer.
        num_terms: how many c_k; 1 leaves only the mean, and every term adds E dimensions.
        lags: l, in sampled frames, the last of them L; none: nothing is said of motion's steadiness.
        order_weight: w. Embeddings of one video's frames lie close together, shares do not, and the distance is not
            free of scale: w says how much the order of frames counts beside what they show.
    """

    def __init__(
        self,
        image_text: ImageText,
        *,
        num_frames: int = 8,
        num_terms: int = 2,
        lags: Sequence[int] = (1, 2, 4),
        order_weight: float = 3.0,
    ) -> None:
        super().__init__()
        if num_frames < 2 or num_terms < 1 or num_terms > num_frames:
            raise ValueError(f"num_frames is {num_frames} and num_terms {num_terms}; needed is 2 and 1 or more, n >= k")
        if list(lags) != sorted(set(lags)) or any(not 0 < lag < num_frames for lag in lags):
            raise ValueError(f"lags are {list(lags)}; they have to rise and be between 1 and {num_frames - 1}")
        if order_weight <= 0:
            raise ValueError(f"order_weight is {order_weight}; it has to be above 0")
        self.image_text = image_text
        self.num_frames = num_frames
        self.num_terms = num_terms
        self.lags = tuple(lags)
        self.order_weight = order_weight
        self.num_features = num_terms * image_text.width + len(self.lags)

    @property
    def protocol(self) -> Mapping[str, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What fixes a figure; the hash is of the weights at the time it is read, for they may be in training."""
        return {
            "name": "clip",
            "model": self.image_text.id,
            "weights": weights_hash(self.image_text.state_dict())[:16],
            "frames": self.num_frames,
            "size": "native, resized by the model",
            "terms": self.num_terms,
            "lags": list(self.lags),
            "order_weight": self.order_weight,
        }

    def forward(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> (B, num_terms * E + len(lags)), float32."""
        e = embed_frames(self.image_text, video, self.num_frames).float()  # (B, n, E)
        terms = torch.einsum("kn,bne->bke", self._cosines(e), e)
        moved = [(e[:, lag:] - e[:, :-lag]).square().sum(-1).mean(1, keepdim=True).sqrt() for lag in self.lags]
        shares = [self.order_weight * r / (moved[-1] + REST) for r in moved[:-1]]
        return torch.cat([terms.flatten(1), *moved[-1:], *shares], 1)

    def _cosines(self, like: Tensor) -> Tensor:
        """(num_terms, n): row k holds the weights of c_k."""
        n = self.num_frames
        k = torch.arange(self.num_terms, dtype=like.dtype, device=like.device)[:, None]
        i = torch.arange(n, dtype=like.dtype, device=like.device)[None]
        return torch.where(k == 0, 1.0, math.sqrt(2) * torch.cos(math.pi * k * (i + 0.5) / n)) / n


def embed_frames(image_text: ImageText, video: Tensor, num_frames: int | None = None) -> Tensor:
    """(B, 3, T, H, W) in [-1, 1] -> embeddings of `num_frames` frames, evenly spaced and both ends in: (B, n, E).

    Frames repeat where T is less, and each is embedded once. None: all T frames.
    """
    num_clips, total = video.shape[0], video.shape[2]
    wanted = torch.linspace(0, total - 1, num_frames or total, dtype=torch.float64).round().long()
    distinct, place = wanted.unique(return_inverse=True)
    images = rearrange(video[:, :, distinct.to(video.device)], "b c t h w -> (b t) c h w")
    embeddings = rearrange(image_text.encode_image(images), "(b t) e -> b t e", b=num_clips)
    return embeddings[:, place.to(embeddings.device)]


def embed_clips(
    image_text: ImageText, clips: Sequence[Clip], num_frames: int | None = None, *, batch_size: int = 16
) -> list[Tensor]:
    """Frame embeddings (n, E) of each clip, in their order; sizes may differ. Raises ValueError on NaN."""
    embeddings: list[Tensor] = [torch.empty(0)] * len(clips)
    with frozen(image_text) as device:
        for indices, video in batches(clips, batch_size):
            for index, e in zip(indices, embed_frames(image_text, video.to(device), num_frames).float(), strict=True):
                if not torch.isfinite(e).all():
                    raise ValueError(f"the embeddings of clip {clips[index].id!r} hold NaN or infinity")
                embeddings[index] = e
    return embeddings


def embed_captions(image_text: ImageText, captions: Sequence[str], *, batch_size: int = 256) -> Tensor:
    """Embeddings (B, E) of captions, each distinct one embedded once."""
    distinct = sorted(set(captions))
    place = {caption: index for index, caption in enumerate(distinct)}
    with frozen(image_text):
        parts = [
            image_text.encode_text(distinct[start : start + batch_size]).float()
            for start in range(0, len(distinct), batch_size)
        ]
    return torch.cat(parts)[[place[caption] for caption in captions]]


def caption_of(clip: Clip, kind: str | None) -> str:
    """The caption of this kind, or the first where `kind` is None. Raises ValueError where there is none."""
    if kind is None and clip.captions:
        return next(iter(clip.captions.values()))
    if kind is None or kind not in clip.captions:
        raise ValueError(f"clip {clip.id!r} has no caption {kind or ''}; it has {list(clip.captions) or 'none'}")
    return clip.captions[kind]
