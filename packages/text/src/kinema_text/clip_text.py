"""The text tower of a CLIP as the text encoder of a diffusion transformer."""

import inspect
from collections.abc import Mapping
from typing import Any, Self

import torch
from kinema_core import TextEncoder, TextFeatures, nearest
from torch import nn

from kinema_text.image_text import OpenClipImageText


class OpenClipText(TextEncoder):
    """CLIP's text tokens before the projection, and the projected end token as pooled features.

    Args:
        image_text: the CLIP: the loaded object, which then also serves the metrics, or the keyword arguments of
            `OpenClipImageText`; None: its defaults.
        trainable: whether the text tower learns with the transformer; the image tower never does. Frozen, the CLIP is
            in eval mode and without gradients whatever its surroundings do. This holds for an object passed in, too.

    Raises:
        ValueError: an unknown key in `image_text`, and what `OpenClipImageText` raises.
    """

    def __init__(
        self, *, image_text: OpenClipImageText | Mapping[str, Any] | None = None, trainable: bool = False
    ) -> None:
        super().__init__()
        self.image_text = image_text if isinstance(image_text, OpenClipImageText) else _build(image_text or {})
        self.width = self.image_text.text_width
        self.pooled_width = self.image_text.width
        self.trainable = trainable
        self.image_text.requires_grad_(trainable)
        self.image_text.model.visual.requires_grad_(False)
        self.image_text.model.logit_scale.requires_grad_(False)
        self.train(self.training)
        self.register_load_state_dict_pre_hook(_accept_image_text)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; what is frozen stays in eval mode."""
        super().train(mode and self.trainable)
        self.image_text.model.visual.eval()
        return self

    def forward(self, captions: list[str]) -> TextFeatures:
        """Captions -> tokens (B, S, D), S that of the longest with its start and end; mask (B, S); pooled (B, E)."""
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            return TextFeatures(*self.image_text.text_features(captions))


def _build(settings: Mapping[str, Any]) -> OpenClipImageText:
    accepted = list(inspect.signature(OpenClipImageText).parameters)
    for key in settings:
        if key not in accepted:
            raise ValueError(
                f"image_text.{key} is no setting of a CLIP{nearest(key, accepted)}; it accepts {', '.join(accepted)}"
            )
    return OpenClipImageText(**settings)


def _accept_image_text(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let the weights of the `OpenClipImageText` itself load into the encoder around it."""
    for name in [name for name in state if name.startswith(f"{prefix}model.")]:
        state[f"{prefix}image_text.{name.removeprefix(prefix)}"] = state.pop(name)
