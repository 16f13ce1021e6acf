"""Weights of Wan: the same outputs as diffusers' network, the same bits back, and what is refused."""

import json

import pytest
import torch
from diffusers import WanTransformer3DModel
from kinema_core import Conditioning, Ragged, TextFeatures, seeded_normal
from kinema_core.testing import DiTContract, largest_difference, randomise
from safetensors.torch import load_file, save_file

from kinema_dit import VideoDiT, load_wan, save_wan

SMALL = {"num_attention_heads": 3, "attention_head_dim": 20, "text_dim": 10, "ffn_dim": 48, "num_layers": 2}
KINDS = {
    "text": {"in_channels": 6, "out_channels": 6},
    "image": {"in_channels": 16, "out_channels": 6, "image_dim": 14, "added_kv_proj_dim": 60},
    "image without CLIP": {"in_channels": 16, "out_channels": 6},
    "long patches": {"in_channels": 6, "out_channels": 6, "patch_size": (2, 1, 2)},
}


class TestWanLayout(DiTContract):
    def make(self) -> VideoDiT:
        torch.manual_seed(0)
        return VideoDiT(
            latent_channels=4, text_widths=(8,), pooled_widths=(6,), width=40, depth=2, num_heads=2, layout="wan"
        )


def theirs(kind: str, folder) -> WanTransformer3DModel:
    torch.manual_seed(0)
    model = WanTransformer3DModel(**SMALL, **KINDS[kind]).eval()
    randomise(model, scale=0.2)
    model.save_pretrained(folder)
    return model


def inputs(kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Latents with what goes beside them (B, C, t, h, w), noise (B,), text (B, S, D), features of an image."""
    settings = KINDS[kind]
    x = seeded_normal((2, settings["in_channels"], 4, 6, 8), "x")
    image = seeded_normal((2, 5, settings["image_dim"]), "image") if "image_dim" in settings else None
    return x, torch.tensor([0.73, 0.21]), seeded_normal((2, 512, SMALL["text_dim"]), "text"), image


def ours(model: VideoDiT, kind: str, noise: torch.Tensor) -> list[torch.Tensor]:
    """Our output by clip (C, t, h, w), all clips in one pack; noise (N,)."""
    x, _, text, image = inputs(kind)
    channels = KINDS[kind]["out_channels"]
    packed = Ragged.from_clips(list(x[:, :channels]))
    streams = [TextFeatures(f, torch.ones(f.shape[:2], dtype=torch.bool)) for f in (text, image) if f is not None]
    source = Ragged.from_clips(list(x[:, channels:])).values
    cells = {"source": source} if source.shape[1] else {}
    out = model(packed, noise, Conditioning(tuple(streams), cells))
    return packed.replace(out).clips()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_outputs_are_those_of_diffusers(kind, tmp_path):
    model = theirs(kind, tmp_path)
    x, noise, text, image = inputs(kind)
    right = model(x, 1000 * noise, text, image).sample
    found = ours(load_wan(tmp_path), kind, noise.repeat_interleave(x[0, 0].numel()))
    assert right.std() > 0.1
    for clip, other in zip(found, right, strict=True):
        assert largest_difference(clip, other) < 1e-4 * other.abs().max()


@torch.no_grad()
def test_a_noise_level_a_token_is_that_of_wan_22(tmp_path):
    model = theirs("text", tmp_path)
    x, _, text, _ = inputs("text")
    tokens = torch.rand((2, 4, 3, 4), generator=torch.Generator().manual_seed(0))  # (B, t, h / 2, w / 2)
    right = model(x, 1000 * tokens.flatten(1), text).sample
    cells = tokens.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for clip, other in zip(ours(load_wan(tmp_path), "text", cells.flatten()), right, strict=True):
        assert largest_difference(clip, other) < 1e-4 * other.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_trip_gives_the_same_bits(kind, tmp_path):
    theirs(kind, tmp_path / "one")
    save_wan(load_wan(tmp_path / "one"), tmp_path / "other")
    one, other = (load_file(tmp_path / name / "diffusion_pytorch_model.safetensors") for name in ("one", "other"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    config, again = (WanTransformer3DModel.load_config(tmp_path / name) for name in ("one", "other"))
    assert all(again[key] == value for key, value in config.items() if not key.startswith("_"))


def test_what_does_not_fit_is_said_in_a_line(tmp_path):
    theirs("text", tmp_path)
    weights = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    save_file({**weights, "more": torch.zeros(1)}, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"weights missing: none; unknown: more$"):
        load_wan(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "qk_norm": None}))
    with pytest.raises(ValueError, match="qk_norm"):
        load_wan(tmp_path)
    with pytest.raises(ValueError, match="only the layout wan"):
        save_wan(VideoDiT(latent_channels=4, text_widths=(8,), width=32, depth=1, num_heads=2), tmp_path)
    with pytest.raises(ValueError, match="'tall'; known are kinema and wan"):
        VideoDiT(latent_channels=4, layout="tall")
