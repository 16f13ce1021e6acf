"""Features of a frozen text encoder, computed once a caption."""

from collections.abc import Mapping

import torch
from kinema_core import TextEncoder, TextFeatures
from torch import nn


class CachedText(nn.Module):
    """Wraps a frozen text encoder: captions -> the same features, remembered by caption.

    The encoder stays outside the module tree: its weights neither train nor enter checkpoints.

    Args:
        encoder: must not be trainable.
        known: features of single captions, (1, S, D) each, such as a cache on disk holds.

    Raises:
        ValueError: the encoder is trainable, so its features change.
    """

    def __init__(self, encoder: TextEncoder, known: Mapping[str, TextFeatures] | None = None) -> None:
        super().__init__()
        if encoder.trainable:
            raise ValueError("features of a trainable text encoder cannot be cached: they change in every step")
        object.__setattr__(self, "encoder", encoder.eval())
        self.known = dict(known or {})

    @torch.no_grad()
    def forward(self, captions: list[str]) -> TextFeatures:
        """As the encoder's."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self.known]
        if new:
            features = self.encoder(new)
            for i, caption in enumerate(new):
                length = int(features.mask[i].nonzero().max()) + 1
                one = features[i : i + 1]
                self.known[caption] = TextFeatures(one.tokens[:, :length], one.mask[:, :length], one.pooled)
        return TextFeatures.cat([self.known[caption] for caption in captions])
