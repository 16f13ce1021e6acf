"""The CLIP against open_clip's own text pass, preprocessing and loss, and its weights on disk."""

import json

import open_clip
import pytest
import torch
from kinema_core.testing import largest_difference, randomise
from PIL import Image
from safetensors.torch import load_file, save_file

from kinema_text import OpenClipImageText
from kinema_text.architecture import resolve

NOTHING = {"word_rows": None, "embed_dim": None, "vision": {"image_size": None}, "text": {}}


@pytest.fixture(scope="session")
def vit(tmp_path_factory):
    """The name of a tiny architecture as open_clip defines its own: GELU, its vision transformer, byte pairs."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    folder = tmp_path_factory.mktemp("configs")
    (folder / "kinema-test-vit.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return "kinema-test-vit"


def small(**settings):
    model = OpenClipImageText(**settings)
    randomise(model.model, scale=0.02)
    return model.eval()


def test_text_equals_open_clips_own_pass(vit):
    model = OpenClipImageText(architecture=vit).eval()
    randomise(model.model)
    captions = ["a red circle", "", "a large blue square " * 30]
    theirs = model.model.encode_text(open_clip.tokenize(captions), normalize=True)
    assert largest_difference(model.encode_text(captions), theirs) < 1e-5


def test_hashed_words_equal_open_clips_own_pass():
    model = small(context_length=12)
    captions = ["a red circle", "", "a large blue square " * 5]
    ids = model._tokenize(captions)
    assert ids.shape == (3, 12)  # the long one is cut, its end token kept
    assert largest_difference(model.encode_text(captions), model.model.encode_text(ids, normalize=True)) < 1e-5


@pytest.mark.parametrize("size", [(50, 70), (71, 45), (20, 30), (32, 32), (32, 33)])
def test_tensors_are_prepared_as_open_clip_prepares_files(vit, size):
    # Values away from the ends, as Pillow clips between its two passes.
    pixels = torch.randint(60, 196, (*size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    model = OpenClipImageText(architecture=vit)
    ours = (model.resize(pixels.permute(2, 0, 1)[None] / 127.5 - 1) + 1) / 2
    transform = open_clip.image_transform(32, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))
    theirs = transform(Image.fromarray(pixels.numpy()))[None]
    # Pillow rounds to whole levels after each pass; the second one's weights add up to at most 1.3 in size.
    assert largest_difference(ours, theirs) < (0.5 * 1.3 + 0.5) / 255


def test_images_are_normalised_as_open_clip_does(vit):
    model = OpenClipImageText(architecture=vit).eval()
    images = torch.rand(2, 3, 32, 32)
    transform = torch.stack([(images[:, c] - m) / s for c, (m, s) in enumerate(zip(
        open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD, strict=True))], 1)  # fmt: skip
    theirs = model.model.encode_image(transform, normalize=True)
    assert largest_difference(model.encode_image(images * 2 - 1), theirs) < 1e-5


def test_the_small_clip_sees_the_whole_of_a_wide_image():
    image = torch.full((1, 3, 32, 96), -1.0)
    image[..., :4] = 1  # a stripe at the far left
    assert small().resize(image)[..., 0].min() > 0.5


def test_several_sizes_in_one_batch():
    model = small()
    images = [torch.rand(1, 3, *size) * 2 - 1 for size in ((40, 56), (32, 32), (24, 80))]
    together = model.encode_image(torch.cat([model.resize(image) for image in images]))
    alone = torch.cat([model.encode_image(image) for image in images])
    assert largest_difference(together, alone) < 1e-5


def test_loss_is_open_clips():
    model = small()
    images, captions = torch.rand(3, 3, 32, 32) * 2 - 1, ["a", "b", "c"]
    theirs = open_clip.ClipLoss()(*model(images, captions))
    assert largest_difference(model.loss(images, captions), theirs) < 1e-6


def test_logits_are_bounded():
    model = small()
    model.model.logit_scale.data.fill_(10.0)
    assert model(torch.zeros(1, 3, 32, 32), ["a"])[2].item() == 100.0


def test_id_names_architecture_and_weights():
    model = small()
    before = model.id
    assert before.startswith("kinema-small-") and before == model.id
    with torch.no_grad():
        model.model.visual.trunk.bn1.running_mean[0] += 1
    assert model.id != before


def test_weights_survive_a_file(tmp_path):
    model = small()
    for name, state in {
        "ours": model.state_dict(),
        "encoder": {f"image_text.{k}": v for k, v in model.state_dict().items()},
        "open_clip": model.model.state_dict(),
    }.items():
        path = str(tmp_path / f"{name}.safetensors")
        save_file(state, path)
        assert OpenClipImageText(pretrained=path).id == model.id
    other = OpenClipImageText()
    other.load_state_dict(load_file(tmp_path / "ours.safetensors"))
    assert other.id == model.id


def test_a_pickled_open_clip_file_loads(vit, tmp_path):
    model = OpenClipImageText(architecture=vit)
    torch.save(model.model.state_dict(), tmp_path / "vit.pt")
    loaded = OpenClipImageText(architecture=vit, pretrained=str(tmp_path / "vit.pt"), quick_gelu=False)
    assert loaded.id == model.id


def test_weights_that_do_not_fit(tmp_path):
    path = str(tmp_path / "other.safetensors")
    save_file(small().state_dict(), path)
    with pytest.raises(ValueError, match="no weights of 'kinema-small'"):
        OpenClipImageText(text_width=64, pretrained=path)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="broken"):
        OpenClipImageText(pretrained=str(tmp_path / "broken.safetensors"))


def test_missing_weights():
    with pytest.raises(ValueError, match=r"'no/such/file.pt' is neither a file nor a tag of 'kinema-small'.*none"):
        OpenClipImageText(pretrained="no/such/file.pt")
    with pytest.raises(ValueError, match="its tags are openai, "):
        OpenClipImageText(architecture="ViT-B-32", pretrained="opanai")


def test_a_download_that_fails(monkeypatch):
    def offline(_):
        raise RuntimeError("no network")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    with pytest.raises(ValueError, match="'RN50' cannot be downloaded: no network"):
        OpenClipImageText(architecture="RN50", pretrained="openai")


@pytest.mark.parametrize(
    ("name", "words"), [("ViT-B-33", "no architecture 'ViT-B-33'.*did you mean"), ("ViT-B-16-SigLIP", "no causal CLIP")]
)
def test_architectures_that_cannot_be_built(name, words):
    with pytest.raises(ValueError, match=words):
        OpenClipImageText(architecture=name)


def test_tags_bring_their_activation():
    def quick_gelu(name, tag, asked=None):
        return resolve(name, pretrained=tag, quick_gelu=asked, **NOTHING).config["quick_gelu"]

    assert quick_gelu("ViT-B-32", "openai") is True  # the architecture says GELU; the weights do not
    assert quick_gelu("ViT-B-32", "laion2b_s34b_b79k") is False
    assert quick_gelu("ViT-B-32", None) is False
    assert quick_gelu("ViT-B-32-quickgelu", None) is True
    with pytest.raises(ValueError, match="trained with quick_gelu=True, not False"):
        quick_gelu("ViT-B-32", "openai", asked=False)


def test_a_file_has_to_say_its_activation(vit, tmp_path):
    path = str(tmp_path / "vit.safetensors")
    save_file(OpenClipImageText(architecture=vit).model.state_dict(), path)
    with pytest.raises(ValueError, match="set quick_gelu=true for"):
        OpenClipImageText(architecture=vit, pretrained=path)
    captions = ["a red circle"]
    texts = [
        OpenClipImageText(architecture=vit, pretrained=path, quick_gelu=quick).encode_text(captions)
        for quick in (True, False)
    ]
    assert (texts[0] - texts[1]).abs().max() > 1e-6


def test_tags_bring_their_preprocessing():
    tagged = resolve("ViT-B-32", pretrained="openai", quick_gelu=None, **NOTHING)
    assert tagged.crop and tagged.mean == open_clip.OPENAI_DATASET_MEAN
    squash = [
        resolve(name, pretrained=tag, quick_gelu=None, **NOTHING).crop
        for name, tag in open_clip.list_pretrained()
        if open_clip.get_pretrained_cfg(name, tag).get("resize_mode") == "squash" and name.startswith("ViT-H-14-378")
    ]
    assert squash and not any(squash)


def test_a_vision_transformer_of_timm_takes_a_small_image():
    model = OpenClipImageText(timm_model_name="test_vit", image_size=48).eval()
    assert model.encode_image(torch.zeros(1, 3, 48, 40)).shape == (1, 128)
