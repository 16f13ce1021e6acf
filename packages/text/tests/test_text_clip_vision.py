"""`clip_vision`: transformers' tower and processor, weights of old and new names, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from kinema_core import image_encoders, seeded_normal
from kinema_core.testing import ImageEncoderContract, largest_difference, randomise
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from kinema_text import ClipVision, load_clip_vision

SIZE = 28


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small random tower and its processor, saved by transformers."""
    path = tmp_path_factory.mktemp("clip")
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    tower = CLIPVisionModel(CLIPVisionConfig(**shape, image_size=SIZE, patch_size=14))
    randomise(tower, scale=0.3)
    tower.save_pretrained(path)
    square = {"height": SIZE, "width": SIZE}
    CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=square).save_pretrained(path)
    return path


def made(folder: Path) -> ClipVision:
    files = {"config": str(folder / "config.json"), "processor": str(folder / "preprocessor_config.json")}
    encoder = image_encoders.build({"name": "clip_vision", **files})
    assert isinstance(encoder, ClipVision)
    load_clip_vision(encoder, folder)
    return encoder


class TestContract(ImageEncoderContract):
    @pytest.fixture(autouse=True)
    def _folder(self, folder) -> None:
        self.folder = folder

    def make(self) -> ClipVision:
        return made(self.folder)


@pytest.mark.parametrize("size", [(SIZE, SIZE), (40, 63), (90, 50)])
@torch.no_grad()
def test_features_are_those_of_transformers(folder, size) -> None:
    """Of the layer before the last, as diffusers' pipeline of Wan takes them; resized pixels differ by rounding."""
    levels = (seeded_normal((1, 3, 6, 6), *size) * 60 + 128).clamp(0, 255)
    levels = torch.nn.functional.interpolate(levels, size, mode="bilinear").round()
    prepared = CLIPImageProcessor.from_pretrained(folder)(levels.byte(), return_tensors="pt")
    tower = CLIPVisionModel.from_pretrained(folder)
    states = tower(**prepared, output_hidden_states=True).hidden_states
    found = made(folder)(levels / 127.5 - 1)
    assert found.shape == (1, 1 + 4, 16)
    largest = states[-2].abs().max()
    assert largest_difference(found, states[-2]) < (1e-5 if size == (SIZE, SIZE) else 0.01) * largest
    assert largest_difference(found, states[-1]) > 0.1 * largest


def test_names_of_older_files_are_read(folder, tmp_path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({f"vision_model.{name}": value for name, value in weights.items()}, tmp_path / "model.safetensors")
    encoder, right = made(folder), made(folder).state_dict()
    randomise(encoder)
    load_clip_vision(encoder, tmp_path)
    assert all(torch.equal(value, right[name]) for name, value in encoder.state_dict().items())


def test_what_is_wrong_is_said(folder, tmp_path) -> None:
    files = {"config": str(folder / "config.json"), "processor": str(folder / "preprocessor_config.json")}
    with pytest.raises(ValueError, match=r"there is no config.json at nowhere"):
        ClipVision(**{**files, "config": "nowhere"})
    with pytest.raises(ValueError, match=r"there is no preprocessor_config.json at nowhere"):
        ClipVision(**{**files, "processor": "nowhere"})
    with pytest.raises(ValueError, match=r"is of a None, not a 'clip_vision_model'"):
        ClipVision(**{**files, "config": files["processor"]})
    large = json.loads(Path(files["processor"]).read_text()) | {"size": {"shortest_edge": 224}}
    (tmp_path / "processor.json").write_text(json.dumps(large))
    with pytest.raises(ValueError, match=r"size \{'shortest_edge': 224\}; the tower takes \{'shortest_edge': 28\}"):
        ClipVision(**{**files, "processor": str(tmp_path / "processor.json")})
    with pytest.raises(ValueError, match="holds no model.safetensors"):
        load_clip_vision(made(folder), tmp_path)
