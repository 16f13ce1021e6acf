"""Adapters to VAEs of diffusers: small folders that diffusers itself saved, whitening, and a peer from scratch."""

import diffusers
import pytest
import torch
from kinema_core import seeded_normal, vaes
from kinema_core.testing import VAEContract, largest_difference

from kinema_vae.diffusers_vae import DiffusersVAE, DiffusersWanVAE

SMALL = {
    "AutoencoderKLCogVideoX": {
        "block_out_channels": (8, 8, 8, 8),
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "temporal_compression_ratio": 4,
        "down_block_types": ("CogVideoXDownBlock3D",) * 4,
        "up_block_types": ("CogVideoXUpBlock3D",) * 4,
        "scaling_factor": 0.7,
    },
    "AutoencoderKLHunyuanVideo": {
        "block_out_channels": (8, 8, 8, 8),
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("HunyuanVideoDownBlock3D",) * 4,
        "up_block_types": ("HunyuanVideoUpBlock3D",) * 4,
        "scaling_factor": 0.5,
    },
    "AutoencoderKLLTXVideo": {
        "latent_channels": 8,
        "block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
        "spatio_temporal_scaling": (True, True, False, False),
        "decoder_spatio_temporal_scaling": (True, True, False, False),
        "patch_size": 1,
        "patch_size_t": 1,
        "scaling_factor": 2.0,
    },
}


class TestPeerContract(VAEContract):
    def make(self) -> DiffusersWanVAE:
        torch.manual_seed(0)
        return DiffusersWanVAE(latent_channels=4, width=4, mult=(1, 2, 2), over_time=(True, True), num_blocks=1)


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_a_folder_of_diffusers(name, tmp_path):
    torch.manual_seed(0)
    model = getattr(diffusers, name)(**SMALL[name])
    if name == "AutoencoderKLLTXVideo":
        model.latents_mean.copy_(torch.linspace(-1, 1, 8))
        model.latents_std.copy_(torch.linspace(0.5, 2, 8))
    model.save_pretrained(tmp_path)
    vae = vaes.build({"name": "diffusers", "folder": str(tmp_path)}).eval()
    assert not vae.streams
    st, sh, sw = vae.stride
    video = seeded_normal((1, 3, 1 + 2 * st, 2 * sh, 3 * sw), 0).clamp(-1, 1)
    z = vae.encode(video)
    assert z.shape == (1, vae.latent_channels, 3, 2, 3)
    # By diffusers' own convention: the pipelines scale latents so before they are decoded.
    mean = model.eval().encode(video).latent_dist.mean
    scale = model.config.scaling_factor
    if name == "AutoencoderKLLTXVideo":
        shape = (1, -1, 1, 1, 1)
        white = (mean - model.latents_mean.view(shape)) * scale / model.latents_std.view(shape)
    else:
        white = mean * scale
    assert largest_difference(z, white) < 1e-5
    assert largest_difference(vae.decode(z), model.decode(mean).sample) < 1e-4
    assert vae.decode(z, size=(sh + 1, 2 * sw)).shape[3:] == (sh + 1, 2 * sw)
    image = vae.encode(video[:, :, :1, : sh + 1])
    assert image.shape == (1, vae.latent_channels, 1, 2, 3)


def test_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="either the folder"):
        DiffusersVAE()
    with pytest.raises(ValueError, match="two of them true"):
        DiffusersWanVAE(mult=(1, 2), over_time=(True,))
    with pytest.raises(ValueError, match="holds no config.json"):
        DiffusersVAE(folder=str(tmp_path))
    with pytest.raises(ValueError, match="diffusers has no VAE 'UNet'"):
        DiffusersVAE(class_name="UNet")
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"pip install 'kinema-vae\[diffusers\]'"):
        DiffusersVAE(class_name="AutoencoderKLWan")
