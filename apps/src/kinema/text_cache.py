"""Features of a frozen text encoder, computed once a caption."""

from collections.abc import Callable

import torch
from kinema_core import TextEncoder, TextFeatures
from torch import nn


class CachedText(nn.Module):
    """Wraps a frozen text encoder: captions -> the same features, remembered by caption.

    The encoder stays outside the module tree: its weights neither train nor enter checkpoints.

    Args:
        encoder: must not be trainable.
        stored: caption -> its features (1, S, D) if they are at hand, such as on disk, else None.

    Raises:
        ValueError: the encoder is trainable, so its features change.
    """

    def __init__(self, encoder: TextEncoder, stored: Callable[[str], TextFeatures | None] | None = None) -> None:
        super().__init__()
        if encoder.trainable:
            raise ValueError("features of a trainable text encoder cannot be cached: they change in every step")
        object.__setattr__(self, "encoder", encoder.eval())
        self.stored = stored
        self.known: dict[str, TextFeatures] = {}

    @torch.no_grad()
    def forward(self, captions: list[str]) -> TextFeatures:
        """As the encoder's."""
        for caption in dict.fromkeys(captions):
            if caption not in self.known:
                self.known[caption] = (self.stored and self.stored(caption)) or self._encoded(caption)
        return TextFeatures.cat([self.known[caption] for caption in captions])

    def _encoded(self, caption: str) -> TextFeatures:
        return self.encoder([caption])
