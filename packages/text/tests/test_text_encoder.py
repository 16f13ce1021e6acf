"""CLIP's text tower as a text encoder: frozen means frozen, one CLIP serves both, weights and names."""

import pytest
import torch
from kinema_core import text_encoders
from kinema_core.testing import largest_difference
from safetensors.torch import load_file, save_file

from kinema_text import OpenClipImageText, OpenClipText

SMALL = {"timm_model_name": "test_resnet", "text_width": 32, "text_heads": 2}


def test_the_object_passed_in_is_used_not_copied():
    clip = OpenClipImageText(**SMALL)
    encoder = OpenClipText(image_text=clip)
    assert encoder.image_text is clip
    assert encoder.width == 32 and encoder.pooled_width == clip.width == 128


def test_features_are_those_of_the_clip():
    clip = OpenClipImageText(**SMALL).eval()
    features = OpenClipText(image_text=clip)(["a red circle", ""])
    assert features.mask.sum(1).tolist() == [5, 2]  # start and end count
    unit = torch.nn.functional.normalize(features.pooled, dim=-1)
    assert largest_difference(unit, clip.encode_text(["a red circle", ""])) < 1e-6


def test_frozen_stays_in_eval_mode_without_gradients():
    encoder = OpenClipText(image_text=SMALL)
    torch.nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    features = encoder(["a red circle"])
    assert not features.tokens.requires_grad and not features.pooled.requires_grad


def test_trainable_trains_the_whole_text_tower_and_nothing_else():
    encoder = OpenClipText(image_text=SMALL, trainable=True).train()
    features = encoder(["a red circle", "a blue square"])
    (features.tokens.square().sum() + features.pooled.square().sum()).backward()
    learns = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert learns and learns == {name for name, p in encoder.named_parameters() if p.grad is not None}
    assert not any("visual" in name for name in learns)
    assert encoder.image_text.model.transformer.training and not encoder.image_text.model.visual.training


def test_built_by_name():
    encoder = text_encoders.build({"name": "open_clip", "image_text": {**SMALL, "embed_dim": 48}})
    assert isinstance(encoder, OpenClipText) and encoder.pooled_width == 48 and not encoder.trainable
    assert text_encoders.origin("open_clip")[0] == "kinema-text"


def test_weights_of_encoder_and_clip_both_load(tmp_path):
    clip = OpenClipImageText(**SMALL).eval()
    save_file(clip.state_dict(), tmp_path / "clip.safetensors")
    save_file(OpenClipText(image_text=clip).state_dict(), tmp_path / "text.safetensors")
    for name in ("clip", "text"):
        encoder = OpenClipText(image_text=SMALL)
        encoder.load_state_dict(load_file(tmp_path / f"{name}.safetensors"))
        assert encoder.image_text.id == clip.id


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(ValueError, match="image_text.embed_dims is no setting.*'embed_dim'"):
        OpenClipText(image_text={"embed_dims": 3})
