"""Features of a frozen text encoder, computed once a caption."""

import hashlib
from collections.abc import Callable

import torch
from kinema_core import TextEncoder, TextFeatures, weights_hash
from torch import nn

#: Their tokens tell tokenizers, lengths and paddings apart.
PROBES = ("", "A red circle moves left.", 1000 * "word ")


@torch.no_grad()
def encoder_hash(encoder: TextEncoder) -> str:
    """Names what features depend on: the weights, and how many tokens captions have, real and padded."""
    masks = [encoder([probe]).mask.int().tolist() for probe in PROBES]
    return hashlib.sha256(f"{weights_hash(encoder.state_dict())} {masks}".encode()).hexdigest()


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
