"""The encoders of T5 and umT5 through the library transformers (the extra `hf`), as Wan and others condition on them.

Letters: B captions, S tokens, D width.
"""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ftfy
import torch
from kinema_core import TextEncoder, TextFeatures, diffusers_folder
from torch import Tensor, nn

#: Names of transformers' classes of encoder and settings, by the `model_type` of config.json.
CLASSES = {"t5": ("T5EncoderModel", "T5Config"), "umt5": ("UMT5EncoderModel", "UMT5Config")}
DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}


class T5Text(TextEncoder):
    """T5's or umT5's encoder, frozen: a token a word piece, no pooled features.

    Its weights are those of a folder that transformers saved: give the path of its model.safetensors as `weights`.
    Captions are cleaned as Wan's pipeline does it: broken encodings mended, HTML entities resolved, runs of white space
    made one space.

    Args:
        config: path of the config.json that transformers saved.
        tokenizer: path of the tokenizer.json beside it.
        max_tokens: longest sequence with its end token; what is beyond is cut off.
        zero_padded: what Wan was trained with: every caption is `max_tokens` long, zeros after its end, and none of
            them is masked.
        dtype: of the weights, float32, bfloat16 or float16; None: as config.json says. Features are float32 whatever
            it is.

    Raises:
        ValueError: transformers is not installed, a file is not there or is none of T5's, or an unknown dtype.
    """

    trainable = False
    pooled_width = None
    files = ("config", "tokenizer")

    def __init__(
        self,
        *,
        config: str,
        tokenizer: str,
        max_tokens: int = 512,
        zero_padded: bool = False,
        dtype: str | None = None,
    ) -> None:
        super().__init__()
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"t5: dtype {dtype!r} is unknown; known: {', '.join(DTYPES)}")
        if max_tokens < 1:
            raise ValueError(f"t5: max_tokens is {max_tokens}; even the empty caption takes 1")
        encoder = _encoder(config, DTYPES[dtype] if dtype else None)
        self.encoder = encoder.requires_grad_(False).eval()
        self.tokenize = _tokenizer(tokenizer, max_tokens)
        self.width = encoder.config.d_model
        self.max_tokens, self.zero_padded = max_tokens, zero_padded
        self.register_load_state_dict_pre_hook(_accept_shared)

    def train(self, mode: bool = True) -> "T5Text":  # noqa: ARG002  torch passes it
        """Frozen: stays in eval mode, whatever `mode` is."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, captions: list[str]) -> TextFeatures:
        """Captions -> tokens (B, S, D), zero where there is none, and mask (B, S); S is that of the longest, or
        `max_tokens` with `zero_padded`."""
        encoded = self.tokenize.encode_batch([cleaned(caption) for caption in captions])
        device = self.encoder.embed_tokens.weight.device
        ids = torch.tensor([one.ids for one in encoded], device=device)
        mask = torch.tensor([one.attention_mask for one in encoded], device=device)
        tokens = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float() * mask[..., None]
        if not self.zero_padded:
            return TextFeatures(tokens, mask.bool(), None)
        tokens = nn.functional.pad(tokens, (0, 0, 0, self.max_tokens - tokens.shape[1]))
        return TextFeatures(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=device), None)


def cleaned(caption: str) -> str:
    """Broken encodings mended, HTML entities resolved twice over, runs of white space made one space."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(caption))).split())


def load_t5(encoder: T5Text, folder: str | Path) -> None:
    """Load the weights that transformers saved in a folder, in one file or several.

    Raises:
        ValueError: a file is missing or ends too early; weights are missing, unknown, of another shape or not finite.
    """
    shapes = {name: value.shape for name, value in encoder.state_dict().items()}
    shapes["shared.weight"] = shapes.pop("encoder.embed_tokens.weight")
    encoder.load_state_dict(diffusers_folder.read_weights(folder, shapes, name="model.safetensors"))


def _encoder(config: str, dtype: torch.dtype | None) -> Any:
    try:
        import transformers  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ValueError("t5 needs transformers: pip install 'kinema-text[hf]'") from error
    path = Path(config)
    if not path.is_file():
        raise ValueError(f"t5: there is no config.json at {config}")
    settings = json.loads(path.read_text())
    kind = settings.get("model_type")
    if kind not in CLASSES:
        raise ValueError(f"t5: {config} is of a {kind!r}; known: {', '.join(CLASSES)}")
    model, model_settings = (getattr(transformers, name) for name in CLASSES[kind])
    return model(model_settings.from_dict(settings)).encoder.to(dtype or said_dtype(settings))


def said_dtype(settings: Mapping[str, Any]) -> torch.dtype:
    """That of the weights by transformers' config.json, of old and new versions; float32 where it says none."""
    return DTYPES.get(settings.get("dtype") or settings.get("torch_dtype") or "", torch.float32)


def _tokenizer(file: str, max_tokens: int) -> Any:
    from tokenizers import Tokenizer  # noqa: PLC0415  comes with transformers

    if not Path(file).is_file():
        raise ValueError(f"t5: there is no tokenizer.json at {file}")
    tokenizer = Tokenizer.from_file(file)
    tokenizer.enable_truncation(max_tokens)
    pad = "<pad>"
    number = tokenizer.token_to_id(pad)
    if number is None:
        raise ValueError(f"t5: {file} has no token {pad}, so it is none of T5's")
    tokenizer.enable_padding(pad_id=number, pad_token=pad)
    return tokenizer


def _accept_shared(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """The embedding by the name that transformers saves it under."""
    shared = state.pop(f"{prefix}shared.weight", None)
    if shared is not None:
        state.setdefault(f"{prefix}encoder.embed_tokens.weight", shared)
