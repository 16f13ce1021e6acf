"""Which open_clip model to build, with which weights: everything decided before a module exists."""

from copy import deepcopy
from dataclasses import dataclass
from os.path import isfile
from typing import Any

import open_clip
from kinema_core import nearest

#: Our own small CLIP, trained from nothing on one core. timm's test_resnet (.4 M parameters) costs a seventh of
#: resnet10t at these sizes and learns more in the same time.
SMALL = "kinema-small"
_SMALL_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64},
    "text_cfg": {"context_length": 48, "width": 96, "heads": 4, "layers": 2},
}
_SMALL_WORD_ROWS = 1024


@dataclass(frozen=True)
class Architecture:
    """A resolved choice.

    Attributes:
        name: of the architecture.
        config: keyword arguments of `open_clip.CLIP`.
        word_rows: rows in each half of the hashed word table, or 0 for open_clip's byte-pair tokens.
        weights: open_clip's description of a pretrained tag, the path of a local file, or None.
        crop: resize the shortest side and crop the centre (open_clip's default), else squash to a square.
        resized: whether a timm tower has to be told its image size.
        mean: of the images the model expects, in [0, 1], a channel.
        std: likewise.
    """

    name: str
    config: dict[str, Any]
    word_rows: int
    weights: dict[str, Any] | str | None
    crop: bool
    resized: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def resolve(
    name: str,
    *,
    pretrained: str | None,
    quick_gelu: bool | None,
    word_rows: int | None,
    embed_dim: int | None,
    vision: dict[str, Any],
    text: dict[str, Any],
) -> Architecture:
    """Look the architecture up, override what is not None, and find its weights.

    Raises:
        ValueError: see `OpenClipImageText`.
    """
    config = _config(name)
    config["embed_dim"] = embed_dim or config["embed_dim"]
    config["vision_cfg"] |= {key: value for key, value in vision.items() if value is not None}
    config["text_cfg"] |= {key: value for key, value in text.items() if value is not None}
    tag = _tag(name, pretrained)
    config["quick_gelu"] = _quick_gelu(name, config.get("quick_gelu", False), pretrained, tag, quick_gelu)
    return Architecture(
        name=name,
        config=config,
        word_rows=word_rows if word_rows is not None else _SMALL_WORD_ROWS if name == SMALL else 0,
        weights=tag or pretrained,
        crop=name != SMALL and tag.get("resize_mode", "shortest") == "shortest",
        resized="timm_model_name" in config["vision_cfg"] and (name == SMALL or vision["image_size"] is not None),
        mean=tuple(tag.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        std=tuple(tag.get("std", open_clip.OPENAI_DATASET_STD)),
    )


def _config(name: str) -> dict[str, Any]:
    if name == SMALL:
        return deepcopy(_SMALL_CONFIG)
    config = open_clip.get_model_config(name)
    if config is None:
        known = [SMALL, *open_clip.list_models()]
        raise ValueError(f"open_clip has no architecture {name!r}{nearest(name, known)}; `open_clip.list_models()`")
    config = deepcopy(config)
    text = config["text_cfg"]
    if config.get("custom_text") or text.get("no_causal_mask") or "hf_tokenizer_name" in text:
        raise ValueError(f"{name!r} has no causal CLIP text tower with CLIP's own tokens; 'ViT-B-32' has one")
    return config


def _tag(name: str, pretrained: str | None) -> dict[str, Any]:
    """open_clip's description of the tag `pretrained`, {} for None or a local file."""
    if pretrained is None or isfile(pretrained):
        return {}
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    if not tag:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ValueError(f"pretrained={pretrained!r} is neither a file nor a tag of {name!r}; its tags are {known}")
    return tag


def _quick_gelu(name: str, built_in: bool, pretrained: str | None, tag: dict[str, Any], asked: bool | None) -> bool:
    """The activation the weights were trained with; the wrong one loads without complaint and ruins every figure."""
    if tag:
        trained_with = tag.get("quick_gelu", False)
        if asked not in (None, trained_with):
            raise ValueError(f"{pretrained!r} was trained with quick_gelu={trained_with}, not {asked}; leave it out")
        return trained_with
    if asked is None and pretrained is not None and name != SMALL and not built_in:
        raise ValueError(
            f"a file does not say which activation it was trained with: set quick_gelu=true for {name!r} weights that "
            "come from OpenAI, false for most others"
        )
    return built_in if asked is None else asked
