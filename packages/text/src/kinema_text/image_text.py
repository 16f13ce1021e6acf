"""CLIP: images and texts in one space, on open_clip's model class with any of its towers or timm's.

Letters: B images or captions, E embedding width, S text tokens, D text width, K the model's image size.
"""

import open_clip
import torch
from kinema_core import ImageText, weights_hash
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from kinema_text.architecture import SMALL, Architecture, resolve
from kinema_text.resizing import fitted
from kinema_text.words import END, START, HashEmbedding, pad_ids, word_ids

#: CLIP's bound on the logits' scale (Radford et al. 2021, section 2.5).
MAX_LOGIT_SCALE = 100.0


class OpenClipImageText(ImageText):
    """A CLIP of open_clip, trainable or pretrained.

    Images of any size are brought to K x K by antialiased bicubic resizing: pretrained models see the shortest side
    resized and the centre cropped, as open_clip prepares them (a few were trained on squashed images and get those);
    `kinema-small` sees the whole image squashed, so that nothing of a wide or tall video is cut off.

    Every setting that is None is as the architecture says.

    Args:
        architecture: "kinema-small" (timm's test_resnet at 64 px, a text transformer of 2 layers and width 96 over
            hashed words, embeddings of 128: .8 M parameters), or a name of `open_clip.list_models()` with a CLIP
            text tower.
        pretrained: a tag of open_clip (downloaded), or the path of a local file of weights: those of this class, of an
            `OpenClipText`, or open_clip's own; None: random weights.
        quick_gelu: the activation of the transformers, x sigmoid(1.702 x) instead of GELU. Tags know theirs. For a
            local file and an architecture that exists with both it has to be said.
        timm_model_name: image tower by its name in timm.
        image_size: K in pixels.
        embed_dim: E.
        text_width: D.
        text_layers: number of blocks of the text tower.
        text_heads: heads of its attention.
        context_length: longest caption in tokens, start and end included; what is beyond is cut off.
        word_rows: hash words into two halves of so many rows (see `kinema_text.words`); 0: open_clip's 49,408
            byte-pair tokens.

    Raises:
        ValueError: no such architecture or weights, weights that do not fit the architecture, a tag that cannot be
            downloaded, or `quick_gelu` missing or wrong.
    """

    def __init__(
        self,
        *,
        architecture: str = SMALL,
        pretrained: str | None = None,
        quick_gelu: bool | None = None,
        timm_model_name: str | None = None,
        image_size: int | None = None,
        embed_dim: int | None = None,
        text_width: int | None = None,
        text_layers: int | None = None,
        text_heads: int | None = None,
        context_length: int | None = None,
        word_rows: int | None = None,
    ) -> None:
        super().__init__()
        chosen = resolve(
            architecture,
            pretrained=pretrained,
            quick_gelu=quick_gelu,
            word_rows=word_rows,
            embed_dim=embed_dim,
            vision={"timm_model_name": timm_model_name, "image_size": image_size},
            text={
                "width": text_width,
                "layers": text_layers,
                "heads": text_heads,
                "context_length": context_length,
            },
        )
        weights = _downloaded(chosen)
        self.architecture = architecture
        self.width: int = chosen.config["embed_dim"]
        self.text_width: int = chosen.config["text_cfg"]["width"]
        self.image_size: int = chosen.config["vision_cfg"]["image_size"]
        self.context_length: int = chosen.config["text_cfg"].get("context_length", 77)
        self.crop = chosen.crop
        self.word_rows = chosen.word_rows
        self.model = _build(chosen)
        self.register_buffer("mean", torch.tensor(chosen.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(chosen.std)[:, None, None], persistent=False)
        if weights is not None:
            self._load(weights)

    @property
    def id(self) -> str:
        """The architecture and the first 12 digits of the SHA-256 of all weights, as they are now."""
        return f"{self.architecture}-{weights_hash(self.model.state_dict())[:12]}"

    def resize(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 3, K, K) in [-1, 1], so that images of several sizes fit in one batch."""
        return fitted(images, self.image_size, crop=self.crop)

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], any size -> (B, E) of length 1."""
        pixels = (self.resize(images) + 1) / 2  # (B, 3, K, K)
        return self.model.encode_image((pixels - self.mean) / self.std, normalize=True)

    def encode_text(self, captions: list[str]) -> Tensor:
        """Captions -> (B, E) of length 1."""
        return normalize(self.text_features(captions)[2], dim=-1)

    def text_features(self, captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Everything the text tower says of captions, padded to the longest.

        The tower is causal: no token sees the padding, and the end token has seen the whole caption.

        Returns:
            tokens (B, S, D) before the projection, mask (B, S), and the projected end token (B, E), of any length.
        """
        ids = self._tokenize(captions)
        length, clip = ids.shape[1], self.model
        x = clip.token_embedding(ids) + clip.positional_embedding[:length]  # (B, S, D)
        tokens = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
        end = ids.argmax(1)  # the end token has the highest id
        mask = torch.arange(length, device=ids.device) <= end[:, None]
        pooled = tokens[torch.arange(len(ids), device=ids.device), end] @ clip.text_projection
        return tokens, mask, pooled

    def forward(self, images: Tensor, captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of images and of captions, (B, E) each, and their logits' scale: inputs of open_clip's losses."""
        scale = self.model.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
        return self.encode_image(images), self.encode_text(captions), scale

    def loss(self, images: Tensor, captions: list[str]) -> Tensor:
        """The contrastive loss of images (B, 3, H, W) and their captions, symmetric as in CLIP: a scalar."""
        image, text, scale = self(images, captions)
        logits = scale * image @ text.T  # (B, B)
        pairs = torch.arange(len(captions), device=logits.device)
        return (cross_entropy(logits, pairs) + cross_entropy(logits.T, pairs)) / 2

    def _tokenize(self, captions: list[str]) -> Tensor:
        """Captions -> ids (B, S), S that of the longest."""
        device = self.model.positional_embedding.device
        if self.word_rows:
            words = [word_ids(caption)[: self.context_length - 2] for caption in captions]
            return pad_ids([[START, *ids, END] for ids in words], device)
        ids = open_clip.tokenize(captions, self.context_length)
        return ids[:, : ids.argmax(1).max() + 1].to(device)

    def _load(self, path: str) -> None:
        try:
            state = open_clip.factory.load_state_dict(path)
            ours = {name.removeprefix("image_text."): value for name, value in state.items()}
            if all(name.startswith("model.") for name in ours):
                self.load_state_dict(ours)
            else:
                open_clip.load_checkpoint(self.model, path)
        except Exception as error:  # wrong keys, wrong shapes, or no file of weights at all
            raise ValueError(f"{path!r} holds no weights of {self.architecture!r}: {error}") from error


def _downloaded(chosen: Architecture) -> str | None:
    """The path of the weights on this machine; None where there are to be none."""
    if chosen.weights is None or isinstance(chosen.weights, str):
        return chosen.weights
    try:
        return open_clip.download_pretrained(chosen.weights)
    except Exception as error:  # whatever the hub's or the network's client raises
        raise ValueError(f"the pretrained weights of {chosen.name!r} cannot be downloaded: {error}") from error


def _build(chosen: Architecture) -> nn.Module:
    config = chosen.config
    if chosen.word_rows:
        config["text_cfg"]["vocab_size"] = 1  # replaced at once
    model = open_clip.CLIP(**config)
    if chosen.resized:
        # timm's vision transformers are built for 224 px whatever is asked for; convolutional towers take any size.
        model.visual.set_input_size(config["vision_cfg"]["image_size"])
    if chosen.word_rows:
        # The deviation is the one CLIP starts its token embeddings with.
        model.token_embedding = HashEmbedding(chosen.word_rows, config["text_cfg"]["width"], std=0.02)
    return model
