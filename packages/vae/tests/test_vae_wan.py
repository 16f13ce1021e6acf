"""The layout of the Wan VAEs: against diffusers, weights both ways, and what is refused."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKLWan
from kinema_core import seeded_normal
from kinema_core.testing import VAEContract, largest_difference, randomise
from safetensors.torch import load_file, save_file

from kinema_vae import Causal3D, load_wan, save_wan

LAYOUTS = {
    "wan21": {"base_dim": 8, "z_dim": 4, "num_res_blocks": 2},
    "wan22": {
        "base_dim": 8,
        "decoder_base_dim": 12,
        "z_dim": 6,
        "num_res_blocks": 1,
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": 16,
    },
}


@pytest.fixture(params=LAYOUTS)
def folder(request, tmp_path):
    """A small network with random weights, saved by diffusers."""
    torch.manual_seed(0)
    z = LAYOUTS[request.param]["z_dim"]
    model = AutoencoderKLWan(
        **LAYOUTS[request.param],
        latents_mean=torch.linspace(-1, 1, z).tolist(),
        latents_std=torch.linspace(0.5, 2, z).tolist(),
    )
    for index, parameter in enumerate(model.parameters()):
        parameter.data += 0.1 * seeded_normal(tuple(parameter.shape), "weights", index)
    model.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


class TestContract(VAEContract):
    def make(self) -> Causal3D:
        torch.manual_seed(0)
        vae = Causal3D(preset="wan22", latent_channels=4, widths=(4, 8, 8, 8), num_blocks=1)
        randomise(vae, scale=0.05)
        return vae


@torch.no_grad()
def test_latents_and_frames_are_those_of_diffusers(folder):
    theirs, ours = AutoencoderKLWan.from_pretrained(folder).eval(), load_wan(folder)
    video = seeded_normal((2, 3, 9, 48, 32), 0).clamp(-1, 1)
    posterior = theirs.encode(video).latent_dist
    mean, log_variance = ours.posterior(video)
    assert largest_difference(mean, posterior.mean) < 1e-4
    assert largest_difference(log_variance, posterior.logvar) < 1e-4
    shape = (-1, 1, 1, 1)
    white = (posterior.mean - ours.latent_mean.view(shape)) / ours.latent_std.view(shape)
    assert torch.allclose(ours.latent_std, torch.tensor(theirs.config.latents_std))
    assert largest_difference(ours.encode(video), white) < 1e-4
    assert largest_difference(ours.decode(white).clamp(-1, 1), theirs.decode(posterior.mean).sample) < 1e-4


def test_there_and_back_gives_the_same_bits(folder, tmp_path):
    save_wan(load_wan(folder), tmp_path / "again")
    name = "diffusion_pytorch_model.safetensors"
    one, other = (load_file(path / name) for path in (folder, tmp_path / "again"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    AutoencoderKLWan.from_pretrained(tmp_path / "again")
    before, after = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "again"))
    assert {key: before[key] for key in after if key != "decoder_base_dim"} == {
        key: value for key, value in after.items() if key != "decoder_base_dim"
    }


@pytest.mark.parametrize("cut", [[1, 1, 1, 1], [2, 2], [1, 3], [4]])
def test_pieces_are_the_whole(folder, cut):
    vae = load_wan(folder)
    video = seeded_normal((1, 3, 13, 32, 32), 0).clamp(-1, 1)
    with torch.no_grad():
        z = vae.encode(video)
        frames = [1 + 4 * (cut[0] - 1), *(4 * n for n in cut[1:])]
        assert largest_difference(torch.cat(list(vae.encode_stream(video.split(frames, 2))), 2), z) < 1e-5
        assert largest_difference(torch.cat(list(vae.decode_stream(z.split(cut, 2))), 2), vae.decode(z)) < 1e-5


class TestRefused:
    def weights(self, folder):
        return folder / "diffusion_pytorch_model.safetensors"

    def edit(self, folder, change):
        state = load_file(self.weights(folder))
        change(state)
        save_file(state, self.weights(folder))

    @pytest.fixture
    def broken(self, folder, tmp_path):
        return shutil.copytree(folder, tmp_path / "broken")

    def test_no_folder_and_another_architecture(self, broken):
        with pytest.raises(ValueError, match="holds no config.json"):
            load_wan(broken / "none")
        (broken / "config.json").write_text('{"_class_name": "AutoencoderKLCogVideoX"}')
        with pytest.raises(ValueError, match="holds a AutoencoderKLCogVideoX, not an AutoencoderKLWan"):
            load_wan(broken)

    def test_missing_and_unknown_weights_are_listed(self, broken):
        def change(state):
            state["extra.weight"] = state.pop("quant_conv.weight")

        self.edit(broken, change)
        with pytest.raises(ValueError, match=r"missing: quant_conv.weight; unknown: extra.weight"):
            load_wan(broken)

    def test_another_shape_and_nan(self, broken):
        self.edit(broken, lambda state: state.update({"quant_conv.bias": torch.zeros(3)}))
        with pytest.raises(ValueError, match=r"quant_conv.bias is of shape \[3\]"):
            load_wan(broken)
        self.edit(broken, lambda state: state.update({"quant_conv.bias": torch.full((12,), torch.nan)}))
        with pytest.raises(ValueError, match=r"NaN|of shape"):
            load_wan(broken)

    def test_half_written(self, broken):
        content = self.weights(broken).read_bytes()
        self.weights(broken).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match="half written"):
            load_wan(broken)
        self.weights(broken).unlink()
        with pytest.raises(ValueError, match="holds no diffusion_pytorch_model.safetensors"):
            load_wan(broken)

    def test_our_own_layout_is_no_wan(self, tmp_path):
        with pytest.raises(ValueError, match="only the layout wan"):
            save_wan(Causal3D(widths=(8,)), tmp_path / "out")
        assert not (tmp_path / "out").exists()
