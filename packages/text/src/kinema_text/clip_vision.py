"""The image tower of a CLIP through the library transformers (the extra `hf`), as Wan 2.1 conditions on it.

Letters: B images, S tokens, D width, K the tower's image size.
"""

import json
from pathlib import Path
from typing import Any

import torch
from kinema_core import ImageEncoder, diffusers_folder
from torch import Tensor

from kinema_text.resizing import fitted
from kinema_text.t5 import said_dtype

MODEL_TYPE = "clip_vision_model"
#: Before the names of weights in files of transformers before 5.
PREFIX = "vision_model."


class ClipVision(ImageEncoder):
    """A CLIP's image tower, frozen: a token of the whole image and one a patch, of the last layer but one.

    Its weights are those of a folder that transformers saved: see `load_clip_vision`. Images are prepared as the
    processor says, by antialiased bicubic resizing.

    Args:
        config: path of the config.json that transformers saved.
        processor: path of the preprocessor_config.json of its image processor.

    Raises:
        ValueError: transformers is not installed, a file is not there or of something else, or the processor's images
            are not of the tower's size.
    """

    files = ("config", "processor")

    def __init__(self, *, config: str, processor: str) -> None:
        super().__init__()
        self.encoder = _tower(config).requires_grad_(False).eval()
        self.width: int = self.encoder.config.hidden_size
        self.size: int = self.encoder.config.image_size
        prepared = _read(processor, "preprocessor_config.json")
        self.crop = _crop(prepared, self.size, processor)
        for name in ("mean", "std"):
            value = torch.tensor(prepared[f"image_{name}"])[:, None, None]
            self.register_buffer(name, value, persistent=False)

    def train(self, mode: bool = True) -> "ClipVision":  # noqa: ARG002  torch passes it
        """Frozen: stays in eval mode, whatever `mode` is."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], any size -> (B, S, D), S of 1 + the patches of K x K."""
        pixels = (fitted(images, self.size, crop=self.crop) + 1) / 2
        prepared = ((pixels - self.mean) / self.std).to(self.encoder.dtype)
        return self.encoder(pixel_values=prepared, output_hidden_states=True).hidden_states[-2].float()


def load_clip_vision(encoder: ClipVision, folder: str | Path) -> None:
    """Load the weights that transformers saved in a folder, in one file or several.

    Raises:
        ValueError: a file is missing or ends too early; weights are missing, unknown, of another shape or not finite.
    """
    shapes = {name: value.shape for name, value in encoder.encoder.state_dict().items()}
    weights = diffusers_folder.read_weights(folder, shapes, name="model.safetensors", prefix=PREFIX)
    encoder.encoder.load_state_dict(weights)


def _tower(config: str) -> Any:
    try:
        import transformers  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ValueError("clip_vision needs transformers: pip install 'kinema-text[hf]'") from error
    settings = _read(config, "config.json")
    if settings.get("model_type") != MODEL_TYPE:
        raise ValueError(f"clip_vision: {config} is of a {settings.get('model_type')!r}, not a {MODEL_TYPE!r}")
    model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig.from_dict(settings))
    return model.to(said_dtype(settings))


def _crop(processor: dict[str, Any], size: int, path: str) -> bool:
    """Whether the middle is cut out, of images whose shorter side is brought to `size`; else they are squashed."""
    known = {
        True: {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}},
        False: {"size": {"height": size, "width": size}},
    }
    crop = bool(processor.get("do_center_crop"))
    for key, value in known[crop].items():
        if processor.get(key) != value:
            raise ValueError(f"clip_vision: {path} has {key} {processor.get(key)}; the tower takes {value}")
    return crop


def _read(path: str, name: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise ValueError(f"clip_vision: there is no {name} at {path}")
    return json.loads(Path(path).read_text())
