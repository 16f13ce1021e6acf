"""`kinema import wan`: parts equal to those of diffusers, generation and animation, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from kinema_core import Conditioning, Ragged, seeded_normal
from kinema_core.testing import largest_difference, randomise
from kinema_data import read_clip, to_float
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)
from typer.testing import CliRunner

from kinema.cli import app
from kinema.errors import UserError
from kinema.import_wan import import_wan
from kinema.pipeline import Pipeline, Request

CHANNELS = 4
#: Kinds that are told of the given image by features per cell.
OF_IMAGES = ("image", "clip")
PIECES = ["▁a", "▁red", "▁circle", "▁green", "▁cross", "▁", "m", "o", "v", "e", "s"]


def small_transformer(channels: int, image_dim: int | None = None) -> WanTransformer3DModel:
    shape = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 2}
    if image_dim:
        shape |= {"image_dim": image_dim, "added_kv_proj_dim": 24}
    return WanTransformer3DModel(**shape, in_channels=channels, out_channels=CHANNELS, text_dim=16)


def small_clip() -> dict[str, Any]:
    """The image's encoder and processor of Wan 2.1."""
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    tower = CLIPVisionModel(CLIPVisionConfig(**shape, image_size=28, patch_size=14)).eval()
    randomise(tower, scale=0.1)
    square = {"height": 28, "width": 28}
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=square)
    return {"image_encoder": tower, "image_processor": processor}


def small_pipeline(folder: Path, kind: str) -> WanPipeline | WanImageToVideoPipeline:
    """A random pipeline of one of Wan's kinds, saved by diffusers."""
    torch.manual_seed(0)
    source = 4 + CHANNELS if kind in OF_IMAGES else 0
    parts = {
        "vae": AutoencoderKLWan(
            base_dim=8,
            z_dim=CHANNELS,
            dim_mult=[1, 1, 1, 1],
            latents_mean=[0.1] * CHANNELS,
            latents_std=[2.0] * CHANNELS,
        ),
        "transformer": small_transformer(CHANNELS + source, image_dim=16 if kind == "clip" else None),
        "text_encoder": UMT5EncoderModel(
            UMT5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
        ),
        "tokenizer": T5Tokenizer(
            vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [(piece, -1.0) for piece in PIECES], extra_ids=0
        ),
    }
    pair = {"transformer_2": small_transformer(CHANNELS), "boundary_ratio": 0.9} if kind == "pair" else {}
    for module in (parts["vae"], parts["transformer"], parts["text_encoder"], pair.get("transformer_2")):
        if module is not None:
            randomise(module.eval(), scale=0.1)
    if kind in OF_IMAGES:
        clip = small_clip() if kind == "clip" else {"image_encoder": None, "image_processor": None}
        scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0)
        pipeline = WanImageToVideoPipeline(**parts, **clip, scheduler=scheduler)
    else:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        pipeline = WanPipeline(**parts, **pair, scheduler=scheduler, expand_timesteps=kind == "both")
    pipeline.save_pretrained(folder)
    return pipeline


@pytest.fixture(scope="module", params=["text", "both", "image", "clip", "pair"])
def imported(request, tmp_path_factory) -> tuple[str, Any, Path]:
    """(kind, diffusers' pipeline, our folder); theirs is beside it."""
    folder = tmp_path_factory.mktemp(request.param)
    pipeline = small_pipeline(folder / "diffusers", request.param)
    return request.param, pipeline, import_wan(folder / "diffusers", folder / "kinema")


@torch.no_grad()
def test_a_prediction_is_that_of_diffusers(imported) -> None:
    """Text in, velocity out, at the frame rate of the kind: the parts fit together as theirs do."""
    kind, other, ours = imported
    pipeline = Pipeline.load(str(ours))
    x = seeded_normal((CHANNELS, 3, 4, 6), "x")
    levels = (seeded_normal((3, 1, 4, 6), "image") * 60 + 128).clamp(0, 255).round()  # of 8 bits
    levels = levels.repeat_interleave(8, 2).repeat_interleave(8, 3)
    image = levels / 127.5 - 1
    prompts = ["a red circle moves", ""]
    text, _ = other.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=512)
    request = Request("", 9, 32, 48, 16.0, given=image, keep_frames=(0,))
    noisy, cells, seen, features = x[None].repeat(2, 1, 1, 1, 1), {}, (), None
    if kind in OF_IMAGES:
        latents, condition = other.prepare_latents(image[:, 0][None], 1, CHANNELS, 32, 48, 9, torch.float32)
        assert latents.shape[1:] == x.shape
        noisy = torch.cat([noisy, condition.repeat(2, 1, 1, 1, 1)], dim=1)
        cells = pipeline._cells([request, request])
    if kind == "clip":
        theirs = other.encode_image(levels[:, 0].byte(), torch.device("cpu"))  # resized to whole levels
        seen = pipeline._seen([request, request])
        features = seen[0].tokens
        assert largest_difference(features[:1], theirs) < 0.01 * theirs.abs().max()

    packed = Ragged.from_clips([x, x], [pipeline.frame_rate / 4] * 2)
    cond = pipeline.conditioning(prompts, cells, seen)
    assert isinstance(cond, Conditioning) and largest_difference(cond.text[0].tokens, text) < 1e-5
    for level in (0.95, 0.7):
        low = kind == "pair" and level < other.config.boundary_ratio
        transformer = other.transformer_2 if low else other.transformer
        right = transformer(noisy, torch.full((2,), 1000 * level), text, features).sample
        found = packed.replace(pipeline.dit(packed, torch.full((len(packed.values),), level), cond)).clips()
        assert right.std() > 0.01
        for clip, target in zip(found, right, strict=True):
            assert largest_difference(clip, target) < 1e-4 * target.abs().max()


def test_the_folder_generates_and_animates(imported, tmp_path) -> None:
    kind, _, ours = imported
    run = CliRunner()
    size = ["--frames=5", "--steps=2", f"--out={tmp_path}"]
    made = run.invoke(app, ["generate", str(ours), "a red circle", "--height=32", "--width=32", *size])
    if kind == "clip":
        assert "makes videos of an image only: give it one" in str(made.exception)
    else:
        assert made.exit_code == 0, made.output
    Image.new("RGB", (48, 32), (200, 40, 40)).save(tmp_path / "first.png")
    moved = run.invoke(app, ["animate", str(ours), str(tmp_path / "first.png"), "a circle moves", *size])
    assert moved.exit_code == 0, moved.output
    path = moved.output.split("wrote ")[-1].strip().replace("\n", "")
    assert len(read_clip(path).frames) == 5
    pipeline = Pipeline.load(str(ours), num_steps=2)
    assert pipeline.frame_rate == {"both": 24.0}.get(kind, 16.0) == read_clip(path).frame_rate
    assert pipeline.law.shift == (5.0 if kind in OF_IMAGES else 3.0)
    first = to_float(read_clip(str(tmp_path / "first.png")).frames)
    (latents,) = pipeline.sample([Request("a", 5, 32, 48, given=first, keep_frames=(0,))])
    given = pipeline.vae.encode(first[None])[0]
    kept = largest_difference(latents[:, :1], given)
    assert kept > 1e-2 if kind in OF_IMAGES else kept < 1e-5


def test_what_has_no_counterpart_is_said_in_a_line(imported, tmp_path) -> None:
    theirs = imported[2].with_name("diffusers")
    index = json.loads((theirs / "model_index.json").read_text())
    with pytest.raises(UserError, match="holds no model_index.json"):
        import_wan(tmp_path, tmp_path / "out")
    for change, message in (
        ({"_class_name": "FluxPipeline"}, "holds a FluxPipeline, not a WanPipeline or"),
        ({"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "holds no vae"),
        ({}, "holds no vae"),
    ):
        (tmp_path / "model_index.json").write_text(json.dumps({**index, **change}))
        with pytest.raises(UserError, match=message):
            import_wan(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for part in theirs.iterdir():
        if part.is_dir() and part.name != "transformer_2":
            (tmp_path / part.name).symlink_to(part)
    (tmp_path / "transformer_2").symlink_to(theirs / "transformer")
    second = {"transformer_2": ["diffusers", "WanTransformer3DModel"], "boundary_ratio": None}
    (tmp_path / "model_index.json").write_text(json.dumps({**index, **second}))
    with pytest.raises(UserError, match="no boundary_ratio"):
        import_wan(tmp_path, tmp_path / "out")
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "transformer").unlink()
    (tmp_path / "transformer").symlink_to(theirs / "vae")
    with pytest.raises(UserError, match="holds a AutoencoderKLWan, not an WanTransformer3DModel"):
        import_wan(tmp_path, tmp_path / "out")


def test_a_folder_without_its_tokenizer_is_refused(imported, tmp_path) -> None:
    _, _, ours = imported
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in ours.iterdir():
        (copy / path.name).symlink_to(path)
    (copy / "text.main").unlink()
    (copy / "text.main").mkdir()
    for name in ("model.safetensors", "config.json"):
        (copy / "text.main" / name).symlink_to(ours / "text.main" / name)
    with pytest.raises(UserError, match=r"lacks a file of text.main: there is no text.main/tokenizer.json"):
        Pipeline.load(str(copy))
