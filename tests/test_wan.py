"""Wan's weights, as diffusers saved them, through the application."""

import pytest
import torch
from diffusers import WanTransformer3DModel
from kinema.components import build
from kinema.errors import ConfigError
from kinema_core import dits
from kinema_dit import load_wan


def test_a_transformer_begins_with_wans_weights(tmp_path):
    WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        ffn_dim=48,
        num_layers=1,
    ).save_pretrained(tmp_path)
    node = {"name": "video_dit", "layout": "wan", "width": 24, "depth": 1, "num_heads": 2, "ffn_ratio": 2}
    widths = {"latent_channels": 4, "text_widths": (8,), "pooled_widths": (None,)}
    built, right = build(dits, {**node, "init_from": str(tmp_path)}, **widths), load_wan(tmp_path).state_dict()
    assert all(torch.equal(value, right[name]) for name, value in built.state_dict().items())
    with pytest.raises(ConfigError, match="another architecture"):
        build(dits, {**node, "depth": 2, "init_from": str(tmp_path)}, **widths)
